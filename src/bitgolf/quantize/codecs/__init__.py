"""Codecs: each encodes a weight tensor as a few small arrays, and decodes them."""
