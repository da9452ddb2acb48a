"""Training: the loop, the optimizer, and what makes a run survive."""
