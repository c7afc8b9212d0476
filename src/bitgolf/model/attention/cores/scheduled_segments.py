"""Attention within segments whose maximum length changes during training."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Count, Fraction, TokenCount
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.attention.cores.sdpa import SegmentMask
from bitgolf.model.attention.cores.segment_capacity import SegmentLimits
from bitgolf.model.part import Scheduled
from bitgolf.runtime.progress import TrainingProgress


@register
class ScheduledSegmentMask(SegmentMask, Scheduled):
    """`SegmentMask` with shorter segments during training (Parameter Golf #2014: 1,024, 2,048, then 3,072 tokens).

    stages: (maximum length in tokens, end of the stage as a fraction of the run), by ascending end. A stage lasts up to
    and including its end. After the last one, and in scoring, the maximum length is `max_length`; so a stage that ends
    at 1.0 is that of the whole training, and scoring has longer segments.
    """

    changes_loss: ClassVar[bool] = False  # documents may be shorter than all stages

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        max_length: TokenCount = 3072,
        stages: tuple[tuple[Count, Fraction], ...] = ((1024, 0.1), (2048, 0.7)),
    ) -> None:
        super().__init__(context, max_length=max_length)
        ends = [0.0, *(end for _, end in stages)]
        if len(ends) < 2 or any(a >= b for a, b in pairwise(ends)):
            cause = f"stages must be one or more (length, end) with ascending ends above 0, got {stages}"
            raise RecipeError(cause, where="ScheduledSegmentMask.stages", hint="e.g. ((1024, 0.1), (2048, 0.7))")
        self.stages, self.final_length = stages, max_length

    @property
    def phase_starts(self) -> tuple[float, ...]:
        """Just after the ends of stages, since an end belongs to the stage before it.

        By more than the rounding of a fraction that is computed from seconds, as in the warm-up of each phase's graph.
        """
        return tuple(end + 1e-9 for _, end in self.stages if end < 1)

    @property
    def limits(self) -> SegmentLimits:
        lengths = [self.final_length, *(length for length, _ in self.stages)]
        return SegmentLimits(min(lengths), max(lengths))

    def length_at(self, fraction: float) -> int:
        """The maximum length at a fraction of the run."""
        return next((length for length, end in self.stages if fraction <= end), self.final_length)

    def update(self, progress: TrainingProgress) -> None:
        self.max_length = self.length_at(progress.fraction)
