"""The codec interface, and the codecs for integers with one step per row and for plain floats.

A codec encodes a weight tensor as a few small arrays; decoding repeats the same float operations on every machine.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bitgolf.config.ranges import LARGE, FractionBelowOne, IntegerBits, Range
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
from bitgolf.quantize.codecs.hessian_codes import solve_codes
from bitgolf.quantize.codecs.pruning import magnitude_mask
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.stats import MatrixStats

MATRICES_PER_TASK = 4
"""Matrices that one CPU thread solves together. More would mean fewer torch calls, but could leave threads idle."""

Shape = tuple[int, ...]
ArraySpecs = dict[str, tuple[np.dtype[Any], Shape]]


class RuleEncoding(NamedTuple):
    """The codes of all tensors of one rule as an iterator of (path, code), and a line for the log (empty: none)."""

    codes: Iterator[tuple[str, EncodedTensor]]
    summary: str = ""


class Codec(ABC):
    """A pure, deterministic quantizer of tensors. `decode` needs only the code and the shape of the tensor."""

    @property
    def context_coded(self) -> tuple[str, ...]:
        """Names of the arrays that are entropy-coded with the contexts of `context_model`."""
        return ()

    @property
    def needs_calibration(self) -> bool:
        """Whether `encode` uses calibration statistics."""
        return False

    @abstractmethod
    def array_specs(self, shape: Shape) -> ArraySpecs:
        """Array name -> (dtype, shape), for a tensor of this shape. Must not depend on the values."""

    @abstractmethod
    def encode(
        self, w: Tensor, stats: MatrixStats | None = None, session: EncodingSession | None = None
    ) -> EncodedTensor:
        """The code of `w`, of any shape and float type, as numpy arrays on the CPU.

        stats: calibration statistics on the device of `w`, used if `needs_calibration`.
        Raises `BitgolfError` if `w` is not finite or exceeds the range of the code.
        """

    def encode_many(
        self, weights: Mapping[str, Tensor], stats: Mapping[str, MatrixStats], session: EncodingSession
    ) -> Iterator[tuple[str, EncodedTensor]]:
        """(path, code) of every tensor by `encode`, the largest tensor first. Errors name the tensor."""

        def work(path: str) -> tuple[str, EncodedTensor]:
            with error_location(path):
                return path, self.encode(weights[path], stats.get(path), session)

        return session.map(work, largest_first(weights))

    @abstractmethod
    def decode(self, code: EncodedTensor, shape: Shape) -> Tensor:
        """The float32 tensor of this shape. Raises `CorruptFileError` if no tensor of this shape has this code."""

    def fit_encode(
        self, weights: Mapping[str, Tensor], stats: Mapping[str, MatrixStats], session: EncodingSession | None = None
    ) -> RuleEncoding:
        """Encode all tensors of one rule. Codecs with a bit budget override this to share it among the tensors."""
        return RuleEncoding(self.encode_many(weights, stats, session or EncodingSession()))

    def int_grid_and_steps(self, code: EncodedTensor) -> tuple[IntGrid, Tensor] | None:
        """The grid and the steps (R,) of a tensor stored as integers with one step per row; None for other codes."""
        return None

    def context_model(self, name: str, shape: Shape) -> ContextModel:
        """The context model of a `context_coded` array (rows, columns): contexts of a row from the rows before it."""
        raise NotImplementedError

    def check_layout(self, code: EncodedTensor, shape: Shape) -> None:
        """Raises `CorruptFileError` if names, dtypes or shapes of the arrays differ from `array_specs(shape)`."""
        found = {name: (array.dtype, array.shape) for name, array in code.items()}
        if found != self.array_specs(shape):
            layout = ", ".join(f"{name} {dtype}{list(size)}" for name, (dtype, size) in found.items())
            raise CorruptFileError(
                f"no code of {type(self).__name__} for shape {shape} has the arrays {layout or '(none)'}"
            )


@register
class IntRows(Codec, RowQuantizer):
    """Integers of `bits` bits with one step per row (the last axis; a vector is one row).

    clip: rule for the clipping threshold of a row, from which its step follows.
    min_step, full_range, multiple, scales: settings of `IntGrid`; `scales` is the storage format of the steps.
    scale_rounding: `before` rounds the steps to that format before codes are computed with them. `after` computes codes
    with float32 steps, which are rounded afterwards, as the int8 format of the baseline does; not with a solver.
    prune: share of the weights, those of smallest magnitude, set to zero; it does not change the steps.
    solver: GPTQ error feedback between columns; None rounds each weight to the nearest code. The feedback also
    compensates for pruned weights, which stay zero (SparseGPT, arXiv 2301.00774).
    """

    def __init__(
        self,
        *,
        bits: IntegerBits = 6,
        clip: Spec[Clip] = part(SdClip),
        min_step: Annotated[float, Range(MIN_STEP, LARGE)] = MIN_STEP,
        full_range: bool = False,
        multiple: Annotated[int, Range(1, 127)] = 1,
        scales: Spec[ScaleFormat] = part(Float16Scale),
        scale_rounding: Literal["before", "after"] = "before",
        prune: FractionBelowOne = 0.0,
        solver: Spec[GPTQ] | None = None,
    ) -> None:
        if not 0 <= prune < 1:
            raise RecipeError(f"the pruned share must be at least 0 and below 1, got {prune}", where="IntRows.prune")
        if solver and scale_rounding == "after":
            cause = (
                "error feedback needs the decoded values, so steps must be rounded before: scale_rounding is 'after'"
            )
            raise RecipeError(cause, where="IntRows.scale_rounding", hint="set it to before, or solver to none")
        self.rounded_after = scale_rounding == "after"
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
        rows, kept, step = self.rows_mask_steps(w, stats)
        if self.solver and stats:  # error feedback needs the Hessian
            return self._gptq_codes(self.solver, [(rows, kept, step)], [stats.factorize(self.solver)], [stats])[0]
        return self._code(self.grid.quantize(rows * kept, step[:, None]), step)

    def encode_many(
        self, weights: Mapping[str, Tensor], stats: Mapping[str, MatrixStats], session: EncodingSession
    ) -> Iterator[tuple[str, EncodedTensor]]:
        """As `Codec.encode_many`; matrices of one shape are solved in batches (`_same_shape_batches`)."""
        solve = self.solver
        if not solve:
            return super().encode_many(weights, stats, session)

        def work(paths: Sequence[str]) -> list[tuple[str, EncodedTensor]]:
            prepared, factors = [], []
            for path in paths:
                with error_location(path):
                    prepared.append(self.rows_mask_steps(weights[path], stats[path]))
                    factors.append(stats[path].factorize(solve))
            codes = self._gptq_codes(solve, prepared, factors, [stats[path] for path in paths])
            return list(zip(paths, codes, strict=True))

        known = {path: w for path, w in weights.items() if path in stats}
        rest = super().encode_many({path: w for path, w in weights.items() if path not in stats}, stats, session)
        return chain(rest, chain.from_iterable(session.map(work, _same_shape_batches(known))))

    def decode(self, code: EncodedTensor, shape: Shape) -> Tensor:
        self.check_layout(code, shape)
        codes = torch.from_numpy(code["codes"])
        if not self.grid.contains(codes):
            raise CorruptFileError(
                f"a code lies outside {self.grid.qmin}..{self.grid.qmax} or is no multiple of {self.grid.multiple}: "
                f"codes found are {codes.min()}..{codes.max()}"
            )
        return self.grid.dequantize(codes, self.steps(code)[:, None]).reshape(shape)

    def steps(self, code: EncodedTensor) -> Tensor:
        """float32 (rows,): the step of each row. Raises `CorruptFileError` if a stored scale is invalid."""
        return self.grid.scales.read(code["scales"])

    def int_grid_and_steps(self, code: EncodedTensor) -> tuple[IntGrid, Tensor]:
        return self.grid, self.steps(code)

    def fake_quantize(self, w: Tensor) -> Tensor:
        """Bit for bit `decode(encode(w))` without statistics and `solver`, on the device of `w`, without gradient."""
        rows = w.detach().float().reshape(matrix_shape(tuple(w.shape)))
        kept = rows * magnitude_mask(rows, self.prune) if self.prune else rows
        step = self._steps(rows)
        codes = self.grid.quantize(kept, step[:, None])
        return self.grid.dequantize(codes, self._stored(step)[:, None]).reshape(w.shape)

    def _steps(self, rows: Tensor, stats: MatrixStats | None = None) -> Tensor:
        """(R,) the steps with which codes are computed; `_stored` gives those with which they are decoded."""
        inputs = stats.hessian.diagonal().to(rows.device) if stats else None
        clip = self.clip.threshold(rows, self.grid, inputs)
        return self.grid.exact_steps(clip) if self.rounded_after else self.grid.steps(clip)

    def _stored(self, step: Tensor) -> Tensor:
        return self.grid.scales.round(step) if self.rounded_after else step

    def rows_mask_steps(self, w: Tensor, stats: MatrixStats | None) -> tuple[Tensor, Tensor, Tensor]:
        """The weights (R, C), the mask of weights that are not pruned (R, C), and the steps (R,) of `_steps`."""
        rows = require_finite(w.detach().float(), "a weight is not finite").reshape(matrix_shape(tuple(w.shape)))
        step = self._steps(rows, stats)
        message = f"a row needs a step beyond the largest that can be stored, {self.grid.scales.max_step:g}"
        require_finite(self._stored(step), message)
        return rows, magnitude_mask(rows, self.prune), step

    def _gptq_codes(
        self,
        solve: GPTQ,
        prepared: Sequence[tuple[Tensor, Tensor, Tensor]],
        factors: Sequence[InverseCholesky],
        stats: Sequence[MatrixStats],
    ) -> list[EncodedTensor]:
        """The codes of matrices of one shape, solved together."""
        rows, kept, step = (torch.stack(tensors) for tensors in zip(*prepared, strict=True))
        codes = solve_codes(solve, self.grid, (rows, kept, step), factors, stats)
        return [self._code(*pair) for pair in zip(codes, step, strict=True)]

    def _code(self, codes: Tensor, step: Tensor) -> EncodedTensor:
        return {"codes": codes.cpu().numpy(), "scales": self.grid.scales.store(self._stored(step))}


@register
class Float(Codec):
    """Weights rounded to a float type, for small or sensitive tensors. bfloat16 is stored as uint16."""

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
    """Batches of paths of one shape and device, the largest first.

    On a GPU all of one shape form a batch, since kernel launches dominate; on a CPU at most `MATRICES_PER_TASK`.
    """
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
    """Paths by decreasing number of weights, so that parallel workers start the longest tasks first."""
    return sorted(weights, key=lambda path: -weights[path].numel())


def matrix_shape(shape: Shape) -> tuple[int, int]:
    """(rows, columns) of a tensor as a matrix: the last axis is a row; a vector is one row."""
    columns = shape[-1] if shape else 1
    return math.prod(shape[:-1]), columns


def require_finite(w: Tensor, message: str) -> Tensor:
    """Returns `w`. Raises `BitgolfError` with this message if a value is NaN or infinite."""
    if not torch.isfinite(w).all():
        raise BitgolfError(message, hint="lower the learning rates if training diverged, or use Float(dtype='float32')")
    return w
