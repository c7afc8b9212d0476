"""Quantization grids, clip rules and scale formats, shared by fake quantization and the codecs."""
