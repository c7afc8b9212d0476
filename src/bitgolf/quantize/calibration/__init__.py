"""Calibration: statistics of inputs and output gradients for every matrix."""
