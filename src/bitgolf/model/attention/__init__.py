"""Attention: the token mixer, attention cores and masks, and the parts on queries, keys, values and outputs."""
