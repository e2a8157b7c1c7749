"""Targeted explanations: what would have to change for another class."""
