"""Lossless coding of quantized tensors: streams, contexts, range coding and byte compressors. Does not need torch."""
