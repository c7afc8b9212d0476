"""Portable arithmetic: a model's forward pass with the same bits on every processor and number of threads."""
