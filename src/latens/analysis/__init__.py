"""Analysis: what a trained model can be asked, as arrays."""
