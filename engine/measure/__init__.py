"""What explaining costs, and how far two explanations are apart."""
