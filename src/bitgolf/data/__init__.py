"""Data: shards of tokens, batches as a function of (seed, step), and the check for overlap of the splits."""
