"""Successive halving: many variants with short trainings, and fewer and fewer with longer ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bitgolf.config.ranges import InnerFraction, PositiveFraction
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.sweeps.factors import SearchSpace
from bitgolf.sweeps.search.search import FinishedRound, Grid, Round, Search


@register
class SuccessiveHalving(Search):
    """Successive halving (Jamieson and Talwalkar, 2016, arXiv:1502.07943).

    The first round trains each variant of `among` for the share `first` of its steps or seconds. Each further round keeps
    the better ones, the share `keep` of them, and trains them 1 / `keep` times as long, up to the whole. The base is
    kept in all rounds, so that every variant has something of the same length to be compared with.

    Learning rates and phases are functions of the fraction of a run, so a shorter run is a training of its own with the
    whole schedule: it starts again, and its results are those of a finished model.
    """

    def __init__(
        self, *, first: PositiveFraction = 0.25, keep: InnerFraction = 0.5, among: Spec[Search] = part(Grid)
    ) -> None:
        self.first, self.keep, self.among = first, keep, among()
        if isinstance(self.among, SuccessiveHalving):
            raise RecipeError("the variants of a halving cannot come from a halving", where="among")

    def next_round(self, space: SearchSpace, finished: Sequence[FinishedRound]) -> Round | None:
        if not finished:
            start = self.among.next_round(space, ())
            return start and start._replace(
                reason=f"all variants at {self.first:.3g} of the training", share=self.first
            )
        last = finished[-1]
        if last.round.share >= 1:
            return None
        base, *others = last.results
        count = max(1, math.floor(len(others) * self.keep))
        best = sorted(others, key=lambda result: result.mean)[:count]
        share = min(1.0, last.round.share / self.keep)
        share = 1.0 if share > 1 - 1e-9 else share
        kept = {result.variant for result in best if math.isfinite(result.mean)}
        variants = (base.variant, *(result.variant for result in others if result.variant in kept))
        reason = f"the best {len(kept)} of {len(others)}, started again at {share:.3g} of the training"
        return Round(variants, reason, share)
