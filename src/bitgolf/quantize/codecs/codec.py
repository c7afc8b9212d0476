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
from bitgolf.errors import BitgolfError, CorruptFileError, RecipeError, error_location
from bitgolf.grids.clip import Clip, SdClip
from bitgolf.grids.integer import IntGrid
from bitgolf.grids.row_quantizer import RowQuantizer
from bitgolf.grids.scales import MIN_STEP, Float16Scale, ScaleFormat
from bitgolf.pack.contexts import ContextModel
from bitgolf.pack.streams import EncodedTensor
from bitgolf.quantize.codecs.gptq import GPTQ, InverseCholesky
from bitgolf.quantize.codecs.pruning import magnitude_mask
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.stats import MatrixStats

MATRICES_PER_TASK = 4
"""Matrices that one thread of a CPU solves at once: fewer calls for each weight, and still a share for every thread."""

Shape = tuple[int, ...]
ArraySpecs = dict[str, tuple[np.dtype[Any], Shape]]


class RuleEncoding(NamedTuple):
    """The codes of all tensors of one rule, path by path as they are made, and what the codec chose, for the log."""

    codes: Iterator[tuple[str, EncodedTensor]]
    summary: str = ""


class Codec(ABC):
    """Pure and deterministic. `decode` needs the code and the tensor's shape, nothing else."""

    @property
    def context_coded(self) -> tuple[str, ...]:
        """Which arrays are coded in the contexts that `context_model` finds."""
        return ()

    @property
    def needs_calibration(self) -> bool:
        """Whether `encode` asks for statistics."""
        return False

    @abstractmethod
    def array_specs(self, shape: Shape) -> ArraySpecs:
        """What the code of a tensor of this shape consists of."""

    @abstractmethod
    def encode(
        self, w: Tensor, stats: MatrixStats | None = None, session: EncodingSession | None = None
    ) -> EncodedTensor:
        """The code of `w`, any float type. `stats`: what calibration knows of the matrix, where a codec asks; on its device.

        Raises `BitgolfError` where `w` is not finite or beyond what the code can hold.
        """

    def encode_many(
        self, weights: Mapping[str, Tensor], stats: Mapping[str, MatrixStats], session: EncodingSession
    ) -> Iterator[tuple[str, EncodedTensor]]:
        """Path and code of every tensor, as `encode` has it, the largest first. An error names its tensor."""

        def work(path: str) -> tuple[str, EncodedTensor]:
            with error_location(path):
                return path, self.encode(weights[path], stats.get(path), session)

        return session.map(work, largest_first(weights))

    @abstractmethod
    def decode(self, code: EncodedTensor, shape: Shape) -> Tensor:
        """float32 of this shape. Raises `CorruptFileError` where the code is not one of such a tensor."""

    def fit_encode(
        self, weights: Mapping[str, Tensor], stats: Mapping[str, MatrixStats], session: EncodingSession | None = None
    ) -> RuleEncoding:
        """Encode all tensors of one rule. A codec whose tensors share a budget divides it among them first."""
        return RuleEncoding(self.encode_many(weights, stats, session or EncodingSession()))

    def int_grid_and_steps(self, code: EncodedTensor) -> tuple[IntGrid, Tensor] | None:
        """The grid and the step of each row (R,), where a tensor is stored in integers; else None."""
        return None

    def context_model(self, name: str, shape: Shape) -> ContextModel:
        """What is known of each symbol of a `context_coded` array (rows, columns) from the rows before it."""
        raise NotImplementedError

    def check_layout(self, code: EncodedTensor, shape: Shape) -> None:
        found = {name: (array.dtype, array.shape) for name, array in code.items()}
        if found != self.array_specs(shape):
            raise CorruptFileError(f"the code is not one of {type(self).__name__} for a tensor of shape {shape}")


@register
class IntRows(Codec, RowQuantizer):
    """Integers of `bits` bits with one step for each row; what a row's largest code means is the clip's affair.

    A row is the last axis; a vector is one row. `min_step`, `full_range`, `multiple` and `scales` (how a step is stored)
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
        min_step: float = MIN_STEP,
        full_range: bool = False,
        multiple: int = 1,
        scales: Spec[ScaleFormat] = part(Float16Scale),
        prune: float = 0.0,
        solver: Spec[GPTQ] | None = None,
    ) -> None:
        if not 0 <= prune < 1:
            raise RecipeError(f"a share of 0 to below 1 is pruned, not {prune}", where="IntRows.prune")
        self.grid = IntGrid(bits=bits, full_range=full_range, min_step=min_step, multiple=multiple, scales=scales)
        self.clip, self.prune, self.solver = clip(), prune, solver and solver()

    @property
    def needs_calibration(self) -> bool:
        return self.solver is not None or self.clip.needs_calibration

    def array_specs(self, shape: Shape) -> ArraySpecs:
        rows, columns = matrix_shape(shape)
        return {"codes": (np.dtype(np.int8), (rows, columns)), "scales": (self.grid.scales.dtype, (rows,))}

    def encode(
        self, w: Tensor, stats: MatrixStats | None = None, session: EncodingSession | None = None
    ) -> EncodedTensor:
        rows, kept, step = self._rows_mask_steps(w, stats)
        if self.solver and stats:  # without statistics no column answers for another
            return self._gptq_codes(self.solver, [(rows, kept, step)], [stats.factorize(self.solver)])[0]
        return self._code(self.grid.quantize(rows * kept, step[:, None]), step)

    def encode_many(
        self, weights: Mapping[str, Tensor], stats: Mapping[str, MatrixStats], session: EncodingSession
    ) -> Iterator[tuple[str, EncodedTensor]]:
        """Matrices of one shape are solved together, `MATRICES_PER_TASK` of them."""
        solve = self.solver
        if not solve:
            return super().encode_many(weights, stats, session)

        def work(paths: Sequence[str]) -> list[tuple[str, EncodedTensor]]:
            prepared, factors = [], []
            for path in paths:
                with error_location(path):
                    prepared.append(self._rows_mask_steps(weights[path], stats[path]))
                    factors.append(stats[path].factorize(solve))
            return list(zip(paths, self._gptq_codes(solve, prepared, factors), strict=True))

        known = {path: w for path, w in weights.items() if path in stats}
        rest = super().encode_many({path: w for path, w in weights.items() if path not in stats}, stats, session)
        return chain(rest, chain.from_iterable(session.map(work, _same_shape_batches(known))))

    def decode(self, code: EncodedTensor, shape: Shape) -> Tensor:
        self.check_layout(code, shape)
        codes = torch.from_numpy(code["codes"])
        if not self.grid.contains(codes):
            raise CorruptFileError(
                f"a code is none of {self.grid.qmin}..{self.grid.qmax} in steps of {self.grid.multiple}"
            )
        return self.grid.dequantize(codes, self.steps(code)[:, None]).reshape(shape)

    def steps(self, code: EncodedTensor) -> Tensor:
        """float32 (rows,): what a code of 1 stands for. Raises `CorruptFileError` for scales that are none."""
        return self.grid.scales.read(code["scales"])

    def int_grid_and_steps(self, code: EncodedTensor) -> tuple[IntGrid, Tensor]:
        return self.grid, self.steps(code)

    def fake_quantize(self, w: Tensor) -> Tensor:
        """`decode(encode(w))` without statistics and `solver`, bit for bit (both reckon on `w`'s device), no gradient."""
        rows = w.detach().float().reshape(matrix_shape(tuple(w.shape)))
        kept = rows * magnitude_mask(rows, self.prune) if self.prune else rows
        return self.grid.fake_quantize(kept, self.row_steps(rows)[:, None]).reshape(w.shape)

    def _steps(self, rows: Tensor, stats: MatrixStats | None = None) -> Tensor:
        inputs = stats.hessian.diagonal().to(rows.device) if stats else None
        return self.row_steps(rows, inputs)

    def _rows_mask_steps(self, w: Tensor, stats: MatrixStats | None) -> tuple[Tensor, Tensor, Tensor]:
        """The rows (R, C), which weights are kept (R, C), and the steps (R,)."""
        rows = require_finite(w.detach().float(), "a weight is not finite").reshape(matrix_shape(tuple(w.shape)))
        cause = f"a row needs a step beyond the largest that can be stored, {self.grid.scales.max_step:g}"
        return rows, magnitude_mask(rows, self.prune), require_finite(self._steps(rows, stats), cause)

    def _gptq_codes(
        self, solve: GPTQ, prepared: Sequence[tuple[Tensor, Tensor, Tensor]], factors: Sequence[InverseCholesky]
    ) -> list[EncodedTensor]:
        """The codes of matrices of one shape."""
        rows, kept, step = (torch.stack(tensors) for tensors in zip(*prepared, strict=True))
        codes = solve.quantize(rows, factors, step[..., None], self.grid.quantize, kept)
        return [self._code(*pair) for pair in zip(codes, step, strict=True)]

    def _code(self, codes: Tensor, step: Tensor) -> EncodedTensor:
        return {"codes": codes.cpu().numpy(), "scales": self.grid.scales.store(step)}


@register
class Float(Codec):
    """The weights themselves, rounded to a float type: for what is small or delicate. bfloat16 is held as uint16."""

    def __init__(self, *, dtype: Literal["float32", "float16", "bfloat16"]) -> None:
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.stored = np.dtype(np.uint16 if dtype == "bfloat16" else dtype)

    def array_specs(self, shape: Shape) -> ArraySpecs:
        return {"values": (self.stored, shape)}

    def encode(
        self, w: Tensor, stats: MatrixStats | None = None, session: EncodingSession | None = None
    ) -> EncodedTensor:
        values = require_finite(w.detach().cpu().to(self.dtype), f"a weight is not finite in {self.dtype}").contiguous()
        return {"values": (values.view(torch.uint16) if self.dtype == torch.bfloat16 else values).numpy().copy()}

    def decode(self, code: EncodedTensor, shape: Shape) -> Tensor:
        self.check_layout(code, shape)
        values = torch.from_numpy(code["values"])
        return (values.view(torch.bfloat16) if self.dtype == torch.bfloat16 else values).float()


def _same_shape_batches(weights: Mapping[str, Tensor]) -> list[list[str]]:
    """Paths of matrices of one shape, the largest first: all of them on a GPU, where launches count, else `MATRICES_PER_TASK`."""
    alike: dict[tuple[Shape, torch.device], list[str]] = {}
    for path in largest_first(weights):
        w = weights[path]
        alike.setdefault((matrix_shape(tuple(w.shape)), w.device), []).append(path)
    found = []
    for (_, device), paths in alike.items():
        size = MATRICES_PER_TASK if device.type == "cpu" else len(paths)
        found += [paths[start : start + size] for start in range(0, len(paths), size)]
    return found


def largest_first(weights: Mapping[str, Tensor]) -> list[str]:
    """The paths, those of the largest tensors first: what takes longest is begun first."""
    return sorted(weights, key=lambda path: -weights[path].numel())


def matrix_shape(shape: Shape) -> tuple[int, int]:
    """(rows, columns): a row is the last axis; a vector is one row."""
    columns = shape[-1] if shape else 1
    return math.prod(shape[:-1]), columns


def require_finite(w: Tensor, message: str) -> Tensor:
    """`w` itself, or a `BitgolfError` with this cause."""
    if not torch.isfinite(w).all():
        raise BitgolfError(message, hint="the model has diverged, or wants a codec of wider range (Float, float32)")
    return w
