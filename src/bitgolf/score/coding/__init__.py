"""Lossless compression with a model: the predictor shared by encoder and decoder, the coder, proofs of scores."""
