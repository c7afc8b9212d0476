"""Codecs: from a tensor to a few small arrays, and back."""
