"""Tokens: tokenizers trained, loaded, audited, and the exact bytes that each token stands for."""
