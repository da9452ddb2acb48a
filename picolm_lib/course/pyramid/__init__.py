"""Notebook 03: Pyramidal MLP and init."""
