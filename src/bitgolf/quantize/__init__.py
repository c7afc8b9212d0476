"""Codecs: from float tensors to small integer arrays and back, by rules with exact cover."""
