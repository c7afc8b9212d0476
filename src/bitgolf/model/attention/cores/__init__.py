"""The inside of attention: queries, keys and values in, mixed values out. `sdpa` is the reference."""
