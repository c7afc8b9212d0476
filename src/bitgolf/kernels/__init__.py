"""Fused kernels, as torch operators on plain tensors. Each has a plain twin; `train.fast` chooses between them."""
