"""Evaluation: estimators over a model and images."""
