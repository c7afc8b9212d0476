"""Data: shards of tokens, batches as a pure function of (seed, step), and the guard between training and validation."""
