"""Notebook 06: Sampling."""
