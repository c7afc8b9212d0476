"""Attention cores: queries, keys and values -> attention output. `sdpa` is the reference implementation."""
