"""8 bits for the groups of columns with the largest inputs and weights, inside GPTQ ("AWQ-lite").

Source: openai/parameter-golf, pull request 1908, used by #1945, #1953 and #2014. Despite its name no column is scaled,
unlike in AWQ (arXiv 2306.00978).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from heapq import nlargest
from itertools import chain
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bitgolf.config.ranges import Count, CountOrZero, IntegerBits, Width
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec
from bitgolf.errors import CorruptFileError, RecipeError, error_location
from bitgolf.grids.integer import IntGrid
from bitgolf.pack.streams import EncodedTensor
from bitgolf.quantize.codecs.codec import (
    ArraySpecs,
    IntRows,
    RuleEncoding,
    Shape,
    largest_first,
    matrix_shape,
)
from bitgolf.quantize.codecs.gptq import columnwise
from bitgolf.quantize.codecs.joint_encoding import JointCodec, RuleWeights
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.stats import MatrixStats

UNUSED = -1  # start of a group that a matrix does not have
Groups = Mapping[str, Sequence[int]]
"""Path of a matrix -> first columns of its protected groups, in ascending order."""


@register
class ProtectedGroups(JointCodec):
    """`IntRows`, with `bits` bits for the columns of at most `top_k` groups.

    The columns of a matrix are divided into consecutive groups of `group_size`; what is left is in no group. The groups
    with the largest sum over columns of (root mean square of the input) * (mean magnitude of the weights) are
    protected: their steps have the same clip as the others, divided by more codes. GPTQ compensates for the error that
    remains. Matrices with at most `max_unprotected` weights have no groups.
    scope: the groups are chosen from all matrices of the `rule`, or of all rules of the `recipe` whose codec (or the
    codec that it corrects) is a `ProtectedGroups` with the same `top_k` and this scope, as published.
    A code has the first columns of the groups (`starts`) and the steps of the protected columns, one per row.
    """

    def __init__(
        self,
        *,
        codec: Spec[IntRows],
        bits: IntegerBits = 8,
        group_size: Width = 64,
        top_k: Count = 1,
        max_unprotected: CountOrZero = 65_536,
        scope: Literal["rule", "recipe"] = "rule",
    ) -> None:
        if top_k < 1:
            raise RecipeError(f"top_k must be at least 1, got {top_k}", where="ProtectedGroups.top_k")
        self.codec, self.wide = codec(), codec.replace(bits=bits, solver=None)()
        if self.wide.grid.full_qmax <= self.codec.grid.full_qmax:
            cause = f"protected columns must have more bits than the others, got {bits}"
            raise RecipeError(cause, where="ProtectedGroups.bits", hint="fewer bits in `codec`")
        self.group_size, self.top_k, self.max_unprotected, self.scope = group_size, top_k, max_unprotected, scope

    @property
    def inner(self) -> IntRows:
        return self.codec

    @property
    def joint_choice(self) -> Hashable | None:
        return (ProtectedGroups, self.top_k) if self.scope == "recipe" else None

    def extra_bits(self, shape: Shape) -> float:
        rows, columns = matrix_shape(shape)
        if rows * columns <= self.max_unprotected or columns < self.group_size:
            return 0.0
        wider = math.log2(self.wide.grid.full_qmax / self.codec.grid.full_qmax)
        return rows * (self.group_size * wider + 16)

    @property
    def needs_calibration(self) -> bool:
        return True

    def array_specs(self, shape: Shape) -> ArraySpecs:
        rows, _ = matrix_shape(shape)
        own = {"starts": (np.dtype(np.int16), (self.top_k,)), "wide_scales": (self.wide.grid.scales.dtype, (rows,))}
        return self.codec.array_specs(shape) | own

    def fit_encode_rules(
        self, rules: Sequence[RuleWeights], stats: Mapping[str, MatrixStats], session: EncodingSession
    ) -> RuleEncoding:
        members = [(codec, weights) for codec, weights in rules if isinstance(codec, ProtectedGroups)]
        groups = choose_groups(members, stats)
        codes = [codec.encode_with_groups(weights, stats, session, groups) for codec, weights in members]
        places = ", ".join(f"{start}-{start + self.group_size - 1} of {p}" for p in groups for start in groups[p])
        bits = self.wide.grid.full_qmax.bit_length() + 1
        return RuleEncoding(chain.from_iterable(codes), f"{bits} bits for columns {places}" if groups else "")

    def encode_with_groups(
        self, weights: Mapping[str, Tensor], stats: Mapping[str, MatrixStats], session: EncodingSession, groups: Groups
    ) -> Iterator[tuple[str, EncodedTensor]]:
        """(path, code) of every tensor, with the given groups."""

        def work(path: str) -> tuple[str, EncodedTensor]:
            with error_location(path):
                return path, self.encode_groups(weights[path], stats.get(path), groups[path])

        plain = {path: w for path, w in weights.items() if path not in groups}
        codes = ((path, self._unprotected(code)) for path, code in self.codec.encode_many(plain, stats, session))
        chosen = largest_first({path: w for path, w in weights.items() if path in groups})
        return chain(codes, session.map(work, chosen))

    def encode(
        self, w: Tensor, stats: MatrixStats | None = None, session: EncodingSession | None = None
    ) -> EncodedTensor:
        """The code of a single matrix, of which the best `top_k` groups are protected."""
        return dict(self.fit_encode({"": w}, {"": stats} if stats else {}, session).codes)[""]

    def group_scores(
        self, weights: Mapping[str, Tensor], stats: Mapping[str, MatrixStats]
    ) -> dict[tuple[str, int], float]:
        """(path, first column) -> score of every group that can be protected."""
        large = {path: w for path, w in weights.items() if w.numel() > self.max_unprotected}
        return {(path, start): s for path, w in large.items() for start, s in self._group_scores(w, stats.get(path))}

    def _group_scores(self, w: Tensor, stats: MatrixStats | None) -> Iterator[tuple[int, float]]:
        """(first column, score) of each group of a matrix."""
        importance = w.detach().float().reshape(matrix_shape(tuple(w.shape))).abs().mean(0)
        if stats:
            importance = importance * stats.hessian.diagonal().clamp_min(0).sqrt().to(importance.device)
        count = len(importance) // self.group_size
        sums = importance[: count * self.group_size].double().view(count, self.group_size).sum(1)
        return ((i * self.group_size, score) for i, score in enumerate(sums.tolist()))

    def encode_groups(self, w: Tensor, stats: MatrixStats | None, starts: Sequence[int]) -> EncodedTensor:
        """The code of a matrix with the given protected groups."""
        rows, kept, step = self.codec.rows_mask_steps(w, stats)
        wide_step = self.wide.rows_mask_steps(w, stats)[2]
        wide = set(self._columns(starts))
        codes = torch.empty(rows.shape, dtype=torch.int8, device=rows.device)

        def rounded(j: int, column: Tensor) -> Tensor:
            """Round column j, (R,), and return its decoded values."""
            grid, steps = (self.wide.grid, wide_step) if j in wide else (self.codec.grid, step)
            codes[:, j] = grid.quantize(column, steps) * kept[:, j]
            return grid.dequantize(codes[:, j], steps)

        if self.codec.solver and stats:
            factor = stats.factorize(self.codec.solver)
            order = factor.permutation.tolist()
            block = columnwise(lambda position, column: rounded(order[position], column[0])[None])
            self.codec.solver.quantize_columns(rows[None], [factor], block)
        else:
            for j in range(rows.shape[1]):
                rounded(j, rows[:, j])
        return {
            "codes": codes.cpu().numpy(),
            "scales": self.codec.grid.scales.store(step),
            "starts": np.array([*starts, *[UNUSED] * (self.top_k - len(starts))], np.int16),
            "wide_scales": self.wide.grid.scales.store(wide_step),
        }

    def decode(self, code: EncodedTensor, shape: Shape) -> Tensor:
        self.check_layout(code, shape)
        columns = self._columns(self._starts(code, matrix_shape(shape)[1]))
        if not columns:
            return self.codec.decode({name: code[name] for name in self.codec.array_specs(shape)}, shape)
        codes = torch.from_numpy(code["codes"])
        protected = codes[:, columns]
        if not self.wide.grid.contains(protected):
            raise CorruptFileError(f"a protected code lies outside {self.wide.grid.qmin}..{self.wide.grid.qmax}")
        rest = codes.clone()
        rest[:, columns] = 0
        w = self.codec.decode({"codes": rest.numpy(), "scales": code["scales"]}, tuple(codes.shape))
        w[:, columns] = self.wide.grid.dequantize(protected, self.wide.grid.scales.read(code["wide_scales"])[:, None])
        return w.reshape(shape)

    def int_grid_and_steps(self, code: EncodedTensor) -> tuple[IntGrid, Tensor] | None:
        unprotected = (code["starts"] == UNUSED).all()
        return self.codec.int_grid_and_steps(code) if unprotected else None

    def _columns(self, starts: Sequence[int]) -> list[int]:
        return [column for start in starts for column in range(start, start + self.group_size)]

    def _unprotected(self, code: EncodedTensor) -> EncodedTensor:
        """The code of a matrix without protected groups."""
        scales = np.zeros(len(code["scales"]), self.wide.grid.scales.dtype)
        return code | {"starts": np.full(self.top_k, UNUSED, np.int16), "wide_scales": scales}

    def _starts(self, code: EncodedTensor, columns: int) -> list[int]:
        """The first columns of the groups of a code. Raises `CorruptFileError` unless they are as `encode` writes."""
        starts = [start for start in code["starts"].tolist() if start != UNUSED]
        last = columns // self.group_size * self.group_size - self.group_size
        whole = all(0 <= start <= last and start % self.group_size == 0 for start in starts)
        canonical = [*sorted(set(starts)), *[UNUSED] * (self.top_k - len(starts))] == code["starts"].tolist()
        if not (whole and canonical) or (not starts and code["wide_scales"].any()):
            raise CorruptFileError(
                f"{code['starts'].tolist()} are no protected groups of {self.group_size} of {columns} columns"
            )
        return starts


def choose_groups(
    members: Sequence[tuple[ProtectedGroups, Mapping[str, Tensor]]], stats: Mapping[str, MatrixStats]
) -> Groups:
    """The protected groups of all matrices that have one. All members have the same `top_k`."""
    scores: dict[tuple[str, int], float] = {}
    for codec, weights in members:
        scores |= codec.group_scores(weights, stats)
    found: dict[str, list[int]] = {}
    for path, start in nlargest(members[0][0].top_k, scores, key=scores.__getitem__):
        found.setdefault(path, []).append(start)
    return {path: sorted(starts) for path, starts in found.items()}
