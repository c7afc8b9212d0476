"""Calibration: statistics of the inputs and output gradients of every matrix."""
