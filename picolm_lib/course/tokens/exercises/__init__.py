"""The exercises of notebook 01: for each the calls to try and the mistakes that people make."""
