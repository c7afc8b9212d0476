"""How graphs are compiled: one place for the options of torch.compile's backend, each with its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Options = dict[str, str | int | bool | Callable[..., Any]]


def compiler_options(device: torch.device) -> Options:
    """Options of inductor for graphs on this device, as `torch.compile(options=…)` takes them."""
    return {}


def compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """The function or module as one compiled graph, made anew for each shape of its arguments."""
    return torch.compile(function, fullgraph=True, dynamic=False, options=compiler_options(device))
