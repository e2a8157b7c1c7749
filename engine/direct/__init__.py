"""Direct explanations by the gradient: an Explainer compiled once, called on batches."""
