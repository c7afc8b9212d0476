"""Greedy forward selection: what helps is kept, and the other factors are tried on top of it."""

from __future__ import annotations

from collections.abc import Sequence

from bitgolf.config.ranges import NonNegative
from bitgolf.config.registry import register
from bitgolf.sweeps.factors import BASE, SearchSpace, SweepVariant
from bitgolf.sweeps.search.search import FinishedRound, Round, Search, VariantScores, single_levels


@register
class GreedyForward(Search):
    """Greedy forward selection of levels.

    Each round adds every level of every factor that is not chosen yet to the chosen ones, and keeps the best variant if
    its mean is lower by more than `margin` bits per byte. The search ends when none is. With F factors of L levels it
    runs at most F (F + 1) L / 2 variants.
    """

    def __init__(self, *, margin: NonNegative = 0.0) -> None:
        self.margin = margin

    def next_round(self, space: SearchSpace, finished: Sequence[FinishedRound]) -> Round | None:
        if not finished:
            return Round((BASE, *single_levels(space)), "one level at a time")
        chosen = VariantScores(BASE, finished[0].results[0].scores)
        for past in finished:
            candidate = min(past.results, key=lambda result: (result.mean, result.variant == BASE))
            if candidate.variant == chosen.variant or not candidate.mean < chosen.mean - self.margin:
                return None
            chosen = candidate
        extended = self._extended(space, chosen.variant)
        return Round(tuple(extended), f"added to {chosen.variant.name}, the best so far") if extended else None

    def _extended(self, space: SearchSpace, chosen: SweepVariant) -> list[SweepVariant]:
        levels = dict(chosen.levels)
        rest = [factor for factor in space.factors if factor.name not in levels]
        return [space.variant({**levels, f.name: level.name}) for f in rest for level in f.levels]
