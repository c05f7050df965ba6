"""Training: from options to a model that has learned, one step at a time."""
