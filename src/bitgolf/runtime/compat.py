"""Compatibility with several releases of a library: functions are called according to their signature.

PyTorch 2.11 to 2.13: `varlen_attn` of 2.11 has no `enable_gqa` (its kernel infers grouped heads from their number).
All releases take `window_size` as (left, right), with (-1, 0) for causal attention without a window.
`reduce_scatter_single` and `all_gather_single` are the names in 2.13, which warns about the older names.
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
    """Return the entries of `kwargs` that the function accepts, and None for its required parameters not in `kwargs`.

    required_groups: groups of alternative names. Raises `TypeError` if the function accepts no name of a group.
    """
    parameters = inspect.signature(getattr(function, "_init_fn", function)).parameters  # _init_fn: of a custom operator
    for names in required_groups:
        if not any(name in parameters for name in names):
            raise TypeError(f"{getattr(function, '__name__', function)} takes no argument {' or '.join(names)}")
    required = [name for name, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return dict.fromkeys(required) | {name: value for name, value in kwargs.items() if name in parameters}


def first_available(module: Any, *names: str) -> Callable[..., Any]:
    """Return the first of these functions that the module has.

    Names are given newest first, since a module may warn about its older ones. Raises `AttributeError` if it has none.
    """
    for name in names:
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"{module.__name__} has none of {', '.join(names)}")


def with_gqa(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `varlen_attn` with grouped-query attention enabled; equal numbers of q and kv heads are groups of one."""
    return partial(function, **({"enable_gqa": True} if "enable_gqa" in inspect.signature(function).parameters else {}))


def load_varlen_attention() -> Callable[..., Any]:
    """Return PyTorch's variable-length attention, for grouped heads.

    Imported inside the function, because the import loads the compiler.
    """
    from torch.nn.attention.varlen import varlen_attn

    return with_gqa(varlen_attn)


reduce_scatter_tensor = first_available(dist, "reduce_scatter_single", "reduce_scatter_tensor")
all_gather_tensor = first_available(dist, "all_gather_single", "all_gather_into_tensor")
