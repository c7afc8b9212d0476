"""A run: its state, its stages, and the processes that work on them."""
