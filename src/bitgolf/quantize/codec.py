"""Codecs: one tensor to a few small arrays, and back by the same float operations."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bitgolf.errors import BitgolfError, DamagedError, RecipeError
from bitgolf.grids.clip import Clip, SdClip
from bitgolf.grids.integer import IntGrid
from bitgolf.grids.scales import STEP_FLOOR, HalfScale, Scale
from bitgolf.pack.contexts import Walk
from bitgolf.pack.streams import Code
from bitgolf.quantize.gptq import Gptq
from bitgolf.quantize.prune import keep_largest
from bitgolf.quantize.stats import Stats
from bitgolf.spec import Spec, part, register

Shape = tuple[int, ...]
Arrays = dict[str, tuple[np.dtype[Any], Shape]]


class Codec(ABC):
    """Pure and deterministic. `decode` needs the code and the tensor's shape, nothing else.

    contextual: which arrays are coded in the contexts that `walk` finds.  calibrated: whether `encode` asks for statistics.
    remark: what was chosen once the codec is fitted, for the log.
    """

    contextual: tuple[str, ...] = ()
    calibrated: bool = False
    remark: str = ""

    @abstractmethod
    def arrays(self, shape: Shape) -> Arrays:
        """What the code of a tensor of this shape consists of."""

    @abstractmethod
    def encode(self, w: Tensor, stats: Stats | None = None) -> Code:
        """The code of `w`, any float type. `stats`: what calibration knows of the matrix, where a codec asks.

        Raises `BitgolfError` where `w` is not finite or beyond what the code can hold.
        """

    @abstractmethod
    def decode(self, code: Code, shape: Shape) -> Tensor:
        """float32 of this shape. Raises `DamagedError` where the code is not one of such a tensor."""

    def fitted(self, weights: Mapping[str, Tensor], stats: Mapping[str, Stats]) -> dict[str, Codec]:
        """path -> the codec that encodes it, for all tensors of one rule: where they share a budget. Each can be decoded by `self`."""
        return dict.fromkeys(weights, self)

    def walk(self, name: str, shape: Shape) -> Walk:
        """What is known of each symbol of a `contextual` array (rows, columns) from the rows before it."""
        raise NotImplementedError

    def check(self, code: Code, shape: Shape) -> None:
        found = {name: (array.dtype, array.shape) for name, array in code.items()}
        if found != self.arrays(shape):
            raise DamagedError(f"the code is not one of {type(self).__name__} for a tensor of shape {shape}")


@register
class IntRows(Codec):
    """Integers of `bits` bits with one step for each row; what a row's largest code means is the clip's affair.

    A row is the last axis; a vector is one row. `floor`, `full_range`, `multiple` and `scales` (how a step is stored)
    are the grid's.
    prune: this share of all weights, the smallest ones, becomes zero; the steps are what they were.
    solve: how columns answer for one another's errors; None rounds each weight to the nearest code. It answers for what
    was pruned too, and no pruned weight comes back (as SparseGPT does it, arXiv 2301.00774).
    """

    def __init__(
        self,
        *,
        bits: int = 6,
        clip: Spec[Clip] = part(SdClip),
        floor: float = STEP_FLOOR,
        full_range: bool = False,
        multiple: int = 1,
        scales: Spec[Scale] = part(HalfScale),
        prune: float = 0.0,
        solve: Spec[Gptq] | None = None,
    ) -> None:
        if not 0 <= prune < 1:
            raise RecipeError(f"a share of 0 to below 1 is pruned, not {prune}", place="IntRows.prune")
        self.grid = IntGrid(bits=bits, full_range=full_range, floor=floor, multiple=multiple, scales=scales)
        self.clip, self.prune, self.solve = clip(), prune, solve and solve()
        self.calibrated = solve is not None or self.clip.calibrated

    def arrays(self, shape: Shape) -> Arrays:
        rows, columns = matrix_shape(shape)
        return {"codes": (np.dtype(np.int8), (rows, columns)), "scales": (self.grid.scales.dtype, (rows,))}

    def encode(self, w: Tensor, stats: Stats | None = None) -> Code:
        rows = finite(w.detach().float(), "a weight is not finite").reshape(matrix_shape(tuple(w.shape)))
        kept = keep_largest(rows, self.prune)
        step = finite(
            self._steps(rows, stats),
            f"a row needs a step beyond the largest that can be stored, {self.grid.scales.top:g}",
        )
        solved = self.solve and stats  # without statistics no column answers for another
        codes = self._solved(rows, kept, step, stats) if solved else self.grid.round(rows * kept, step[:, None])
        return {"codes": codes.cpu().numpy(), "scales": self.grid.scales.store(step)}

    def decode(self, code: Code, shape: Shape) -> Tensor:
        self.check(code, shape)
        codes = torch.from_numpy(code["codes"])
        if not self.grid.has(codes):
            raise DamagedError(f"a code is none of {self.grid.low}..{self.grid.top} in steps of {self.grid.multiple}")
        return self.grid.expand(codes, self.steps(code)[:, None]).reshape(shape)

    def steps(self, code: Code) -> Tensor:
        """float32 (rows,): what a code of 1 stands for. Raises `DamagedError` for scales that are none."""
        return self.grid.scales.read(code["scales"])

    def fake(self, w: Tensor) -> Tensor:
        """`decode(encode(w))` without statistics and `solve`, bit for bit (both reckon on `w`'s device), no gradient."""
        rows = w.detach().float().reshape(matrix_shape(tuple(w.shape)))
        step = self._steps(rows)[:, None]
        return self.grid.fake(rows * keep_largest(rows, self.prune), step).reshape(w.shape)

    def _steps(self, rows: Tensor, stats: Stats | None = None) -> Tensor:
        inputs = stats.hessian.diagonal().to(rows.device) if stats else None
        return self.grid.steps(self.clip.clip(rows, self.grid, inputs))

    def _solved(self, w: Tensor, kept: Tensor, step: Tensor, stats: Stats | None) -> Tensor:
        solve = self.solve
        assert solve and stats
        codes = torch.empty(w.shape, dtype=torch.int8, device=w.device)

        def rounded(j: int, column: Tensor) -> Tensor:
            codes[:, j] = self.grid.round(column, step) * kept[:, j]
            return self.grid.expand(codes[:, j], step)

        solve.feed(w, solve.factor(stats.hessian), rounded)
        return codes


@register
class Float(Codec):
    """The weights themselves, rounded to a float type: for what is small or delicate. bfloat16 is held as uint16."""

    def __init__(self, *, dtype: Literal["float32", "float16", "bfloat16"]) -> None:
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.stored = np.dtype(np.uint16 if dtype == "bfloat16" else dtype)

    def arrays(self, shape: Shape) -> Arrays:
        return {"values": (self.stored, shape)}

    def encode(self, w: Tensor, stats: Stats | None = None) -> Code:
        values = finite(w.detach().cpu().to(self.dtype), f"a weight is not finite in {self.dtype}").contiguous()
        return {"values": (values.view(torch.uint16) if self.dtype == torch.bfloat16 else values).numpy().copy()}

    def decode(self, code: Code, shape: Shape) -> Tensor:
        self.check(code, shape)
        values = torch.from_numpy(code["values"])
        return (values.view(torch.bfloat16) if self.dtype == torch.bfloat16 else values).float()


def matrix_shape(shape: Shape) -> tuple[int, int]:
    """(rows, columns): a row is the last axis; a vector is one row."""
    columns = shape[-1] if shape else 1
    return math.prod(shape[:-1]), columns


def finite(w: Tensor, cause: str) -> Tensor:
    """`w` itself, or a `BitgolfError` with this cause."""
    if not torch.isfinite(w).all():
        raise BitgolfError(cause, mend="the model has diverged, or wants a codec of wider range (Float, float32)")
    return w
