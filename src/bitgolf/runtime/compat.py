"""What differs between releases of libraries: called by signature, in this one place.

PyTorch 2.11 to 2.13: `varlen_attn` of 2.11 has no `enable_gqa` (its kernel reads grouped heads by their number); both
take `window_size` as (left, right), and (-1, 0) for causal attention without a window. `reduce_scatter_single` and
`all_gather_single` are 2.13's names, which warns of the older ones.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch.distributed as dist


def supported_kwargs(
    function: Callable[..., Any], kwargs: Mapping[str, Any], required_groups: Iterable[tuple[str, ...]] = ()
) -> dict[str, Any]:
    """Those of the arguments that a function takes by name, and None for what it requires and is not offered.

    needed: groups of names; raises `TypeError` where the function knows none of a group.
    """
    parameters = inspect.signature(getattr(function, "_init_fn", function)).parameters  # of a custom operator: its own
    for names in required_groups:
        if not any(name in parameters for name in names):
            raise TypeError(f"{getattr(function, '__name__', function)} takes no {names[0]}")
    required = [name for name, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return dict.fromkeys(required) | {name: value for name, value in kwargs.items() if name in parameters}


def first_available(module: Any, *names: str) -> Callable[..., Any]:
    """The first of these functions that a module has: the newest name first, as it may warn of the older ones."""
    for name in names:
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"{module.__name__} has none of {', '.join(names)}")


def with_gqa(function: Callable[..., Any]) -> Callable[..., Any]:
    """A `varlen_attn` that takes grouped heads (as many of q as of k and v are groups of one)."""
    return partial(function, **({"enable_gqa": True} if "enable_gqa" in inspect.signature(function).parameters else {}))


def load_varlen_attention() -> Callable[..., Any]:
    """PyTorch's variable-length attention, for grouped heads. It is imported when asked for, as it imports the compiler."""
    from torch.nn.attention.varlen import varlen_attn

    return with_gqa(varlen_attn)


reduce_scatter_tensor = first_available(dist, "reduce_scatter_single", "reduce_scatter_tensor")
all_gather_tensor = first_available(dist, "all_gather_single", "all_gather_into_tensor")
