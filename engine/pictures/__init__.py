"""Maps and photos as pictures that a person can read."""
