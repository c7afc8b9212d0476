"""Quantization: codecs for weight tensors, calibration, and checks. Rules assign each tensor to exactly one codec."""
