"""What only the notebooks need: pictures, sliders, checks. Nothing of the package imports it."""
