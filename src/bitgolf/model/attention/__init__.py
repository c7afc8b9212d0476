"""Attention: the mixer, its masks, and the parts on queries, keys, values and outputs."""
