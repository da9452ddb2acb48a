"""Notebook 05: Training on a T4."""
