"""Versions and hardware that may influence the numbers of a run."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "numpy", "sentencepiece", "safetensors", "constriction", "numba", "brotli", "matplotlib")
CPU_FILE = Path("/proc/cpuinfo")
"""Where Linux describes the CPU."""


def collect_environment() -> dict[str, Any]:
    """Return the contents of `environment.json`: versions of Python and packages, CPU, threads, GPUs and CUDA."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_name": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def cpu_name() -> str:
    """Return the model of the CPU, as the system names it; "" if it does not."""
    with suppress(OSError):
        for line in CPU_FILE.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "Processor") and value.strip():
                return value.strip()
    return platform.processor()
