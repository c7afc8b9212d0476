"""Tokenizers: training, loading, audits, and the exact number of bytes of each token."""
