"""The model, part by part: what transformers copies along with an export."""
