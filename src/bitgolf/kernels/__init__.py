"""Fused kernels as torch operators on plain tensors.

Each has a reference implementation in `bitgolf.model`; `bitgolf.training.kernels` selects which of the two runs.
"""
