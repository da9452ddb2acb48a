"""The embedded corpus: a small world, a grammar, and the plots that are told in it."""
