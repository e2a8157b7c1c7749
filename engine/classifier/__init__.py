"""What a classifier says: names for class numbers, scores as probabilities."""
