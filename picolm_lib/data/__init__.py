"""From text to batches: tokenizer, documents, token files."""
