"""Checks on a quantized model: calibration, fake quantization, encoded matrices."""
