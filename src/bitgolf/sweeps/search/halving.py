"""Successive halving: many variants with short trainings, and fewer and fewer with longer ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bitgolf.config.ranges import InnerFraction, PositiveFraction, TokenCount
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.sweeps.factors import SearchSpace, SweepVariant
from bitgolf.sweeps.search.search import FinishedRound, Grid, Round, Search


@register
class SuccessiveHalving(Search):
    """Successive halving (Jamieson and Talwalkar, 2016, arXiv:1502.07943).

    The first round trains each variant of `among` for the share `first` of its steps or seconds. Each further round keeps
    the better ones, the share `keep` of them, and trains them 1 / `keep` times as long, up to the whole. The base is
    kept in all rounds, so that every variant has something of the same length to be compared with.

    A round is the beginning of the whole training with its schedule, and the next round continues it, so that no step is
    trained twice. The rounds before the last compare the weights after their last step on the first `tokens` held-out
    tokens. Variants with equal scores, such as those that differ in quantization alone, are kept together.

    restart: each round is a training of its own instead, with the whole schedule in a shorter time, and compares finished
    models. It costs more, but also shows effects at the end of training: of a decaying learning rate, late phases and
    quantization.
    """

    def __init__(
        self,
        *,
        first: PositiveFraction = 0.25,
        keep: InnerFraction = 0.5,
        among: Spec[Search] = part(Grid),
        restart: bool = False,
        tokens: TokenCount = 65_536,
    ) -> None:
        self.first, self.keep, self.among, self.restart, self.tokens = first, keep, among(), restart, tokens
        if isinstance(self.among, SuccessiveHalving):
            raise RecipeError("the variants of a halving cannot come from a halving", where="among")

    def next_round(self, space: SearchSpace, finished: Sequence[FinishedRound]) -> Round | None:
        if not finished:
            start = self.among.next_round(space, ())
            return start and self._round(
                start.variants, f"all variants at {self.first:.3g} of the training", self.first
            )
        last = finished[-1]
        if last.round.share >= 1:
            return None
        base, *others = last.results
        count = max(1, math.floor(len(others) * self.keep))
        worst = sorted(result.mean for result in others)[:count][-1:]
        share = min(1.0, last.round.share / self.keep)
        share = 1.0 if share > 1 - 1e-9 else share
        kept = [result.variant for result in others if math.isfinite(result.mean) and result.mean <= worst[0]]
        how = "started again at" if self.restart else "continued to"
        reason = f"the best {len(kept)} of {len(others)}, {how} {share:.3g} of the training"
        return self._round((base.variant, *kept), reason, share)

    def _round(self, variants: tuple[SweepVariant, ...], reason: str, share: float) -> Round:
        return Round(variants, reason, share, 0 if self.restart or share == 1 else self.tokens)
