"""The interface of searches, and those that decide without results: all combinations, and one factor at a time."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from bitgolf.config.registry import register
from bitgolf.sweeps.factors import BASE, SearchSpace, SweepVariant


class Round(NamedTuple):
    """Variants to run next.

    reason: why these, in words. share: of the steps or seconds of the training. prefix_tokens: 0 for trainings of this
    length, with the whole schedule. Otherwise the training of the whole length is left unfinished at the share, and its
    weights are scored on so many held-out tokens; a later round continues it.
    """

    variants: tuple[SweepVariant, ...]
    reason: str
    share: float = 1.0
    prefix_tokens: int = 0


class VariantScores(NamedTuple):
    """What a round found for a variant: bits per byte of each seed that was scored, lower is better."""

    variant: SweepVariant
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the scores; infinite for a variant without any, which a gate stopped or an error ended."""
        return fmean(self.scores) if self.scores else float("inf")


class FinishedRound(NamedTuple):
    """A round and its results, in the order of its variants."""

    round: Round
    results: tuple[VariantScores, ...]

    def best(self) -> VariantScores:
        """The variant with the lowest mean; the first of several."""
        return min(self.results, key=lambda result: result.mean)


class Search(ABC):
    """Decides which variants of a sweep are run.

    A pure function of the results: after an interruption, the same rounds follow. Each search runs the base first, which
    the variants are compared with.
    """

    @abstractmethod
    def next_round(self, space: SearchSpace, finished: Sequence[FinishedRound]) -> Round | None:
        """The next variants to run; None if the search has ended."""


@register
class Grid(Search):
    """All combinations of the levels of all factors."""

    def next_round(self, space: SearchSpace, finished: Sequence[FinishedRound]) -> Round | None:
        if finished:
            return None
        names = [factor.name for factor in space.factors]
        levels = [[level.name for level in factor.levels] for factor in space.factors]
        variants = [space.variant(dict(zip(names, chosen, strict=True))) for chosen in itertools.product(*levels)]
        return Round(tuple(dict.fromkeys([BASE, *variants])), "all combinations of levels")


@register
class OneAtATime(Search):
    """Each level of each factor alone, with all other factors as in the base."""

    def next_round(self, space: SearchSpace, finished: Sequence[FinishedRound]) -> Round | None:
        return None if finished else Round((BASE, *single_levels(space)), "one level at a time")


def single_levels(space: SearchSpace) -> list[SweepVariant]:
    """The variants that differ from the base in one factor."""
    return [space.variant({factor.name: level.name}) for factor in space.factors for level in factor.levels]
