"""Fused kernels as torch operators on plain tensors.

Each has a reference implementation in `bitgolf.model`; `bitgolf.train.kernels` selects which of the two runs.
"""
