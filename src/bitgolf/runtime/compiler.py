"""How graphs are compiled: one place for the options of torch.compile's backend, each with its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

InductorOptions = dict[str, str | int | bool | Callable[..., Any]]

CUDA_OPTIONS: InductorOptions = {
    # Otherwise the gradient of an RMSNorm and the sums over tokens beside it (gradients of gains and gates) become one
    # kernel of two warps, which on an H100 spills 4.7 KB of registers a thread and takes nine times the time of its reads.
    "triton.mix_order_reduction": False,
}


def inductor_options(device: torch.device) -> InductorOptions:
    """Options of inductor for graphs on this device, as `torch.compile(options=…)` takes them.

    Those that the installed torch does not know are left out: it would refuse them, and lacks what they are about.
    """
    if device.type != "cuda":
        return {}
    from torch import _inductor  # takes more than a second, which `bitgolf show` need not wait for

    known = _inductor.list_options()
    return {name: value for name, value in CUDA_OPTIONS.items() if name in known}


def compile_graph(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """The function or module as one compiled graph, made anew for each shape of its arguments."""
    return torch.compile(function, fullgraph=True, dynamic=False, options=inductor_options(device))
