"""Codecs: one tensor to a few small arrays, and back by the same float operations."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bitgolf.errors import BitgolfError, DamagedError
from bitgolf.grids.clip import Clip, SdClip
from bitgolf.grids.integer import STEP_FLOOR, IntGrid
from bitgolf.pack.streams import Code
from bitgolf.spec import Spec, part, register

Shape = tuple[int, ...]
Arrays = dict[str, tuple[np.dtype[Any], Shape]]


class Codec(ABC):
    """Pure and deterministic. `decode` needs the code and the tensor's shape, nothing else."""

    @abstractmethod
    def arrays(self, shape: Shape) -> Arrays:
        """What the code of a tensor of this shape consists of."""

    @abstractmethod
    def encode(self, w: Tensor, stats: Any = None) -> Code:
        """The code of `w`, any float type. `stats`: what calibration knows of the tensor's inputs, where a codec asks.

        Raises `BitgolfError` where `w` is not finite or beyond what the code can hold.
        """

    @abstractmethod
    def decode(self, code: Code, shape: Shape) -> Tensor:
        """float32 of this shape. Raises `DamagedError` where the code is not one of such a tensor."""

    def check(self, code: Code, shape: Shape) -> None:
        found = {name: (array.dtype, array.shape) for name, array in code.items()}
        if found != self.arrays(shape):
            raise DamagedError(f"the code is not one of {type(self).__name__} for a tensor of shape {shape}")


@register
class IntRows(Codec):
    """Integers of `bits` bits with one float16 step for each row; what a row's largest code means is the clip's affair.

    A row is the last axis; a vector is one row.
    """

    def __init__(
        self, *, bits: int = 6, clip: Spec[Clip] = part(SdClip), floor: float = STEP_FLOOR, full_range: bool = False
    ) -> None:
        self.grid = IntGrid(bits=bits, full_range=full_range, floor=floor)
        self.clip = clip()

    def arrays(self, shape: Shape) -> Arrays:
        rows, columns = _rows(shape)
        return {"codes": (np.dtype(np.int8), (rows, columns)), "scales": (np.dtype(np.float16), (rows,))}

    def encode(self, w: Tensor, stats: Any = None) -> Code:
        rows = finite(w.detach().float(), "a weight is not finite").reshape(_rows(tuple(w.shape)))
        step = finite(self._steps(rows), "a row needs a step beyond float16 (65504)")
        codes = self.grid.round(rows, step[:, None])
        return {"codes": codes.cpu().numpy(), "scales": step.cpu().numpy()}

    def decode(self, code: Code, shape: Shape) -> Tensor:
        self.check(code, shape)
        codes, step = torch.from_numpy(code["codes"]), torch.from_numpy(code["scales"])
        if (codes < self.grid.low).any() or (codes > self.grid.top).any() or not (step > 0).all() or step.isinf().any():
            raise DamagedError(f"a code lies outside {self.grid.low}..{self.grid.top}, or a scale is none")
        return self.grid.expand(codes, step[:, None]).reshape(shape)

    def fake(self, w: Tensor) -> Tensor:
        """`decode(encode(w))` bit for bit (both reckon on `w`'s device), without gradient."""
        rows = w.detach().float().reshape(_rows(tuple(w.shape)))
        return self.grid.fake(rows, self._steps(rows)[:, None]).reshape(w.shape)

    def _steps(self, rows: Tensor) -> Tensor:
        return self.grid.steps(self.clip.clip(rows, self.grid))


@register
class Float(Codec):
    """The weights themselves, rounded to a float type: for what is small or delicate. bfloat16 is held as uint16."""

    def __init__(self, *, dtype: Literal["float32", "float16", "bfloat16"]) -> None:
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.stored = np.dtype(np.uint16 if dtype == "bfloat16" else dtype)

    def arrays(self, shape: Shape) -> Arrays:
        return {"values": (self.stored, shape)}

    def encode(self, w: Tensor, stats: Any = None) -> Code:
        values = finite(w.detach().cpu().to(self.dtype), f"a weight is not finite in {self.dtype}").contiguous()
        return {"values": (values.view(torch.uint16) if self.dtype == torch.bfloat16 else values).numpy().copy()}

    def decode(self, code: Code, shape: Shape) -> Tensor:
        self.check(code, shape)
        values = torch.from_numpy(code["values"])
        return (values.view(torch.bfloat16) if self.dtype == torch.bfloat16 else values).float()


def _rows(shape: Shape) -> tuple[int, int]:
    columns = shape[-1] if shape else 1
    return math.prod(shape[:-1]), columns


def finite(w: Tensor, cause: str) -> Tensor:
    """`w` itself, or a `BitgolfError` with this cause."""
    if not torch.isfinite(w).all():
        raise BitgolfError(cause, mend="the model has diverged, or wants a codec of wider range (Float, float32)")
    return w
