"""Versions and hardware that may influence the numbers of a run."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

import torch

PACKAGES = ("torch", "numpy", "sentencepiece", "safetensors", "constriction", "numba", "brotli")


def collect_environment() -> dict[str, Any]:
    """Return the contents of `environment.json`: versions of Python and packages, CPU, threads, GPUs and CUDA."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }
