"""What notebooks use of Colab's own package, with a folder in Drive's place."""
