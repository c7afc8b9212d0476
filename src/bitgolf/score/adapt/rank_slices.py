"""SGD steps that are divided among GPUs as in the phases of Parameter Golf #1610 to #2135, on any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from bitgolf.config.ranges import (
    Count,
    FractionBelowOne,
    LearningRate,
    NonNegative,
    Repetitions,
    ScoringRows,
    TokenCount,
    WindowTokensOrZero,
)
from bitgolf.config.registry import register
from bitgolf.score.adapt.gradient import SGDAdaptation
from bitgolf.score.methods import ScoringWindow


@register
class RankSlicedSGD(SGDAdaptation):
    """`SGDAdaptation` on the full sequences of a chunk, divided evenly among `ranks`, the GPUs of the original.

    A chunk of n targets has n // sequence_length full sequences; the rest of it is left out. The consecutive sequences
    of a rank, at most `batch_size` in one step, form one row, which is read like a row of training. The loss of a row
    is the mean over its targets, and that of a step the mean over its rows, so targets in shorter rows count more: of 12
    sequences and 8 ranks, half of the rows have one sequence and half have two.
    """

    def __init__(
        self,
        *,
        ranks: Count = 8,
        lr: LearningRate = 0.001,
        momentum: FractionBelowOne = 0.9,
        epochs: Repetitions = 1,
        max_norm: NonNegative = 1.0,
        batch_size: ScoringRows = 32,
        sequence_length: WindowTokensOrZero = 0,
        where: tuple[str, ...] = ("*",),
        frozen: tuple[str, ...] = (),
        max_tokens: TokenCount = 8192,
    ) -> None:
        super().__init__(
            lr=lr,
            momentum=momentum,
            epochs=epochs,
            max_norm=max_norm,
            batch_size=batch_size,
            sequence_length=sequence_length,
            where=where,
            frozen=frozen,
            max_tokens=max_tokens,
        )
        self.ranks = ranks

    def steps(self, tokens: Tensor, bos: int, sequence_length: int) -> list[list[ScoringWindow]]:
        """The rows of each step: one for each rank that has sequences left."""
        full = (len(tokens) - 1) // sequence_length
        bounds = [full * rank // self.ranks for rank in range(self.ranks + 1)]
        rows = [self._rows(*pair, sequence_length) for pair in pairwise(bounds)]
        return [[own[i] for own in rows if i < len(own)] for i in range(max(map(len, rows)))]

    def _rows(self, first: int, last: int, sequence_length: int) -> list[ScoringWindow]:
        """The rows of a rank, in order, from its sequences first … last - 1."""
        starts = range(first, last, self.batch_size)
        spans = [(i * sequence_length, min(i + self.batch_size, last) * sequence_length) for i in starts]
        return [ScoringWindow(start, stop, start) for start, stop in spans]

    def target_weight(self, row: ScoringWindow, step: Sequence[ScoringWindow]) -> float:
        return 1 / (len(step) * (row.stop - row.start))

    def longest_row(self, chunk: int, sequence_length: int) -> int:
        of_a_rank = -(-(chunk // sequence_length) // self.ranks)
        return min(of_a_rank, self.batch_size) * sequence_length
