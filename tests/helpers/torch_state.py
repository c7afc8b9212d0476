"""The state of torch that a program shares with the libraries that it calls."""

from __future__ import annotations

import warnings
from typing import Any

import torch


def torch_state() -> dict[str, Any]:
    """Return settings of torch that a library must not change, and its random state, as comparable values."""
    with warnings.catch_warnings(action="ignore"):
        precision = torch.get_float32_matmul_precision()
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "device": str(torch.get_default_device()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32),
        "precision": precision,
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "anomaly": torch.is_anomaly_enabled(),
        "random": torch.get_rng_state().tolist(),
    }
