"""Checks on a quantized model: its calibration, fake quantization and encoded matrices."""
