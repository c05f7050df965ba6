"""The model: parts that return distributions, and the VAE that they compose."""
