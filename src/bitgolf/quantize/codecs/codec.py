"""Codecs: one tensor to a few small arrays, and back by the same float operations."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, DamagedError, RecipeError, at
from bitgolf.grids.clip import Clip, SdClip
from bitgolf.grids.integer import IntGrid
from bitgolf.grids.row_quantizer import RowQuantizer
from bitgolf.grids.scales import STEP_FLOOR, HalfScale, Scale
from bitgolf.pack.contexts import Walk
from bitgolf.pack.streams import Code
from bitgolf.quantize.codecs.gptq import Factor, Gptq
from bitgolf.quantize.codecs.pruning import keep_largest
from bitgolf.quantize.codecs.session import Session
from bitgolf.quantize.stats import Stats

TOGETHER = 4
"""Matrices that one thread of a CPU solves at once: fewer calls for each weight, and still a share for every thread."""

Shape = tuple[int, ...]
Arrays = dict[str, tuple[np.dtype[Any], Shape]]


class RuleEncoding(NamedTuple):
    """The codes of all tensors of one rule, path by path as they are made, and what the codec chose, for the log."""

    codes: Iterator[tuple[str, Code]]
    summary: str = ""


class Codec(ABC):
    """Pure and deterministic. `decode` needs the code and the tensor's shape, nothing else."""

    @property
    def contextual(self) -> tuple[str, ...]:
        """Which arrays are coded in the contexts that `walk` finds."""
        return ()

    @property
    def calibrated(self) -> bool:
        """Whether `encode` asks for statistics."""
        return False

    @abstractmethod
    def arrays(self, shape: Shape) -> Arrays:
        """What the code of a tensor of this shape consists of."""

    @abstractmethod
    def encode(self, w: Tensor, stats: Stats | None = None, session: Session | None = None) -> Code:
        """The code of `w`, any float type. `stats`: what calibration knows of the matrix, where a codec asks; on its device.

        Raises `BitgolfError` where `w` is not finite or beyond what the code can hold.
        """

    def encode_each(
        self, weights: Mapping[str, Tensor], stats: Mapping[str, Stats], session: Session
    ) -> Iterator[tuple[str, Code]]:
        """Path and code of every tensor, as `encode` has it, the largest first. An error names its tensor."""

        def work(path: str) -> tuple[str, Code]:
            with at(path):
                return path, self.encode(weights[path], stats.get(path), session)

        return session.map(work, largest_first(weights))

    @abstractmethod
    def decode(self, code: Code, shape: Shape) -> Tensor:
        """float32 of this shape. Raises `DamagedError` where the code is not one of such a tensor."""

    def fit_encode(
        self, weights: Mapping[str, Tensor], stats: Mapping[str, Stats], session: Session | None = None
    ) -> RuleEncoding:
        """Encode all tensors of one rule. A codec whose tensors share a budget divides it among them first."""
        return RuleEncoding(self.encode_each(weights, stats, session or Session()))

    def int_grid_and_steps(self, code: Code) -> tuple[IntGrid, Tensor] | None:
        """The grid and the step of each row (R,), where a tensor is stored in integers; else None."""
        return None

    def walk(self, name: str, shape: Shape) -> Walk:
        """What is known of each symbol of a `contextual` array (rows, columns) from the rows before it."""
        raise NotImplementedError

    def check(self, code: Code, shape: Shape) -> None:
        found = {name: (array.dtype, array.shape) for name, array in code.items()}
        if found != self.arrays(shape):
            raise DamagedError(f"the code is not one of {type(self).__name__} for a tensor of shape {shape}")


@register
class IntRows(Codec, RowQuantizer):
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

    @property
    def calibrated(self) -> bool:
        return self.solve is not None or self.clip.calibrated

    def arrays(self, shape: Shape) -> Arrays:
        rows, columns = matrix_shape(shape)
        return {"codes": (np.dtype(np.int8), (rows, columns)), "scales": (self.grid.scales.dtype, (rows,))}

    def encode(self, w: Tensor, stats: Stats | None = None, session: Session | None = None) -> Code:
        rows, kept, step = self._prepared(w, stats)
        if self.solve and stats:  # without statistics no column answers for another
            return self._solved(self.solve, [(rows, kept, step)], [stats.factorize(self.solve)])[0]
        return self._code(self.grid.round(rows * kept, step[:, None]), step)

    def encode_each(
        self, weights: Mapping[str, Tensor], stats: Mapping[str, Stats], session: Session
    ) -> Iterator[tuple[str, Code]]:
        """Matrices of one shape are solved together, `TOGETHER` of them."""
        solve = self.solve
        if not solve:
            return super().encode_each(weights, stats, session)

        def work(paths: Sequence[str]) -> list[tuple[str, Code]]:
            prepared, factors = [], []
            for path in paths:
                with at(path):
                    prepared.append(self._prepared(weights[path], stats[path]))
                    factors.append(stats[path].factorize(solve))
            return list(zip(paths, self._solved(solve, prepared, factors), strict=True))

        known = {path: w for path, w in weights.items() if path in stats}
        rest = super().encode_each({path: w for path, w in weights.items() if path not in stats}, stats, session)
        return chain(rest, chain.from_iterable(session.map(work, _batches(known))))

    def decode(self, code: Code, shape: Shape) -> Tensor:
        self.check(code, shape)
        codes = torch.from_numpy(code["codes"])
        if not self.grid.has(codes):
            raise DamagedError(f"a code is none of {self.grid.low}..{self.grid.top} in steps of {self.grid.multiple}")
        return self.grid.expand(codes, self.steps(code)[:, None]).reshape(shape)

    def steps(self, code: Code) -> Tensor:
        """float32 (rows,): what a code of 1 stands for. Raises `DamagedError` for scales that are none."""
        return self.grid.scales.read(code["scales"])

    def int_grid_and_steps(self, code: Code) -> tuple[IntGrid, Tensor]:
        return self.grid, self.steps(code)

    def fake_quantize(self, w: Tensor) -> Tensor:
        """`decode(encode(w))` without statistics and `solve`, bit for bit (both reckon on `w`'s device), no gradient."""
        rows = w.detach().float().reshape(matrix_shape(tuple(w.shape)))
        kept = rows * keep_largest(rows, self.prune) if self.prune else rows
        return self.grid.fake(kept, self.row_steps(rows)[:, None]).reshape(w.shape)

    def _steps(self, rows: Tensor, stats: Stats | None = None) -> Tensor:
        inputs = stats.hessian.diagonal().to(rows.device) if stats else None
        return self.row_steps(rows, inputs)

    def _prepared(self, w: Tensor, stats: Stats | None) -> tuple[Tensor, Tensor, Tensor]:
        """The rows (R, C), which weights are kept (R, C), and the steps (R,)."""
        rows = finite(w.detach().float(), "a weight is not finite").reshape(matrix_shape(tuple(w.shape)))
        cause = f"a row needs a step beyond the largest that can be stored, {self.grid.scales.top:g}"
        return rows, keep_largest(rows, self.prune), finite(self._steps(rows, stats), cause)

    def _solved(
        self, solve: Gptq, prepared: Sequence[tuple[Tensor, Tensor, Tensor]], factors: Sequence[Factor]
    ) -> list[Code]:
        """The codes of matrices of one shape."""
        rows, kept, step = (torch.stack(tensors) for tensors in zip(*prepared, strict=True))
        codes = solve.codes(rows, factors, step[..., None], self.grid.round, kept)
        return [self._code(*pair) for pair in zip(codes, step, strict=True)]

    def _code(self, codes: Tensor, step: Tensor) -> Code:
        return {"codes": codes.cpu().numpy(), "scales": self.grid.scales.store(step)}


@register
class Float(Codec):
    """The weights themselves, rounded to a float type: for what is small or delicate. bfloat16 is held as uint16."""

    def __init__(self, *, dtype: Literal["float32", "float16", "bfloat16"]) -> None:
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.stored = np.dtype(np.uint16 if dtype == "bfloat16" else dtype)

    def arrays(self, shape: Shape) -> Arrays:
        return {"values": (self.stored, shape)}

    def encode(self, w: Tensor, stats: Stats | None = None, session: Session | None = None) -> Code:
        values = finite(w.detach().cpu().to(self.dtype), f"a weight is not finite in {self.dtype}").contiguous()
        return {"values": (values.view(torch.uint16) if self.dtype == torch.bfloat16 else values).numpy().copy()}

    def decode(self, code: Code, shape: Shape) -> Tensor:
        self.check(code, shape)
        values = torch.from_numpy(code["values"])
        return (values.view(torch.bfloat16) if self.dtype == torch.bfloat16 else values).float()


def _batches(weights: Mapping[str, Tensor]) -> list[list[str]]:
    """Paths of matrices of one shape, the largest first: all of them on a GPU, where launches count, else `TOGETHER`."""
    alike: dict[tuple[Shape, torch.device], list[str]] = {}
    for path in largest_first(weights):
        w = weights[path]
        alike.setdefault((matrix_shape(tuple(w.shape)), w.device), []).append(path)
    found = []
    for (_, device), paths in alike.items():
        size = TOGETHER if device.type == "cpu" else len(paths)
        found += [paths[start : start + size] for start in range(0, len(paths), size)]
    return found


def largest_first(weights: Mapping[str, Tensor]) -> list[str]:
    """The paths, those of the largest tensors first: what takes longest is begun first."""
    return sorted(weights, key=lambda path: -weights[path].numel())


def matrix_shape(shape: Shape) -> tuple[int, int]:
    """(rows, columns): a row is the last axis; a vector is one row."""
    columns = shape[-1] if shape else 1
    return math.prod(shape[:-1]), columns


def finite(w: Tensor, cause: str) -> Tensor:
    """`w` itself, or a `BitgolfError` with this cause."""
    if not torch.isfinite(w).all():
        raise BitgolfError(cause, mend="the model has diverged, or wants a codec of wider range (Float, float32)")
    return w
