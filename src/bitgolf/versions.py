"""What differs between releases of libraries: called by signature, in this one place.

PyTorch 2.11 to 2.13: `varlen_attn` of 2.11 has no `enable_gqa` (its kernel reads grouped heads by their number);
`reduce_scatter_single` and `all_gather_single` are 2.13's names, which warns of the older ones.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch.distributed as dist
from torch.nn.attention.varlen import varlen_attn as _varlen_attn


def known(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that a function takes by name. A function that hides its signature takes all."""
    parameters = inspect.signature(getattr(function, "_init_fn", function)).parameters  # of a custom operator: its own
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return options
    return {name: value for name, value in options.items() if name in parameters}


def first_of(module: Any, *names: str) -> Callable[..., Any]:
    """The first of these functions that a module has: the newest name first, as it warns of the older ones."""
    for name in names:
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"{module.__name__} has none of {', '.join(names)}")


reduce_scatter = first_of(dist, "reduce_scatter_single", "reduce_scatter_tensor")
all_gather = first_of(dist, "all_gather_single", "all_gather_into_tensor")

varlen_attn = partial(_varlen_attn, **known(_varlen_attn, {"enable_gqa": True}))
"""Variable-length attention of grouped heads (equal numbers of heads are a group of one)."""
