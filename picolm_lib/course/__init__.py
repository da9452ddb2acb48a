"""What only the notebooks need: pictures, sliders, checks. Nothing else imports it."""
