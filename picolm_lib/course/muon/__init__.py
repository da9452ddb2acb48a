"""Notebook 04: Muon."""
