"""What notebook 05 draws, measures and checks."""
