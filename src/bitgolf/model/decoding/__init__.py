"""Incremental decoding with a key/value cache, and text generation."""
