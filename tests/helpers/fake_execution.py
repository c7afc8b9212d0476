"""Run code on fake tensors at full shape: tensor sizes are real, without memory and arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
ASSUMED = {torch.bool: True, torch.int64: 1}


class AssumedValues(TorchDispatchMode):
    """Assumes values where code reads fake tensors.

    A condition is true, an item is 1 or 1.0, and `bincount` returns its minimal length.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten._local_scalar_dense.default:
            return ASSUMED.get(args[0].dtype, 1.0)
        if func is aten.bincount.default:
            return args[0].new_empty((kwargs or {}).get("minlength", args[2] if len(args) > 2 else 0))
        return func(*args, **(kwargs or {}))


@contextmanager
def fake_tensors() -> Iterator[FakeTensorMode]:
    """Context in which new tensors are fake."""
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, AssumedValues():
        yield fake
