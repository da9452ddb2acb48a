"""Notebook 02: RoPE and GQA."""
