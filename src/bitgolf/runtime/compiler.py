"""Options of the inductor backend of torch.compile, each with its reason."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

InductorOptions = dict[str, str | int | bool | Callable[..., Any]]

CUDA_OPTIONS: InductorOptions = {
    # When enabled, the gradient of an RMSNorm is fused with the sums over tokens beside it (gradients of gains and
    # gates) into a kernel of two warps. On an H100 it spills 4.7 KB of registers per thread, and takes nine times as
    # long as its memory reads would.
    "triton.mix_order_reduction": False,
}


def inductor_options(device: torch.device) -> InductorOptions:
    """Return the `options` of `torch.compile` for graphs on this device.

    Options that the installed torch does not have are left out: it would reject them, and does not need them.
    """
    if device.type != "cuda":
        return {}
    from torch import _inductor  # a slow import, over a second, that `bitgolf show` does not need

    known = _inductor.list_options()
    return {name: value for name, value in CUDA_OPTIONS.items() if name in known}


def graph_count() -> int:
    """Return the number of graphs that this process has compiled, without importing the compiler."""
    compiler = sys.modules.get("torch._dynamo.utils")
    return compiler.counters["stats"]["unique_graphs"] if compiler else 0


def compile_graph(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Compile a function or module as one graph; it is recompiled for each new shape of its arguments."""
    return torch.compile(function, fullgraph=True, dynamic=False, options=inductor_options(device))
