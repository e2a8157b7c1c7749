"""Whether an explanation, and what the model goes by, can be trusted."""
