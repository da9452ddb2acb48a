"""Notebook 01: Tokenizer."""
