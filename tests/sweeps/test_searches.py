"""Searches: which variants they run, as a function of results that the tests make up."""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.config.spec import part
from bitgolf.errors import RecipeError, UsageError
from bitgolf.recipes import get_recipe
from bitgolf.sweeps.factors import BASE, Factor, FactorLevel, SearchSpace, SweepVariant
from bitgolf.sweeps.search.greedy import GreedyForward
from bitgolf.sweeps.search.halving import SuccessiveHalving
from bitgolf.sweeps.search.optuna_search import AS_IN_BASE, OptunaSearch
from bitgolf.sweeps.search.search import FinishedRound, Grid, OneAtATime, Round, Search, VariantScores

Scores = Callable[[SweepVariant], float]


def space(*sizes: int) -> SearchSpace:
    """Factors a, b, … with so many levels: a1, a2, …"""
    names = "abcdefgh"[: len(sizes)]
    factors = [
        Factor(name=name, levels=tuple(part(FactorLevel, name=f"{name}{i + 1}") for i in range(size)))
        for name, size in zip(names, sizes, strict=True)
    ]
    return SearchSpace(get_recipe("quickstart"), factors)


def play(search: Search, where: SearchSpace, score: Scores) -> list[Round]:
    """All rounds of a search, with made-up scores. After each, the search is asked as after an interruption."""
    finished = list[FinishedRound]()
    while (current := search.next_round(where, tuple(finished))) is not None:
        assert search.next_round(where, tuple(finished)) == current, "a search has no state"
        found = tuple(VariantScores(v, (score(v),) if math.isfinite(score(v)) else ()) for v in current.variants)
        finished.append(FinishedRound(current, found))
        assert len(finished) < 50
    return [past.round for past in finished]


def names(found: Round) -> list[str]:
    return [variant.name for variant in found.variants]


@given(st.lists(st.integers(1, 3), min_size=0, max_size=3))
def test_a_grid_has_all_combinations_and_the_base_once(sizes: list[int]) -> None:
    (only,) = play(Grid(), space(*sizes), lambda v: 1.0)
    combinations = itertools.product(
        *([f"{n}{i + 1}" for i in range(size)] for n, size in zip("abc", sizes, strict=False))
    )
    assert names(only) == list(dict.fromkeys(["base", *(", ".join(levels) or "base" for levels in combinations)]))


def test_one_at_a_time() -> None:
    (only,) = play(OneAtATime(), space(2, 1), lambda v: 1.0)
    assert names(only) == ["base", "a1", "a2", "b1"]


def additive(**effects: float) -> Scores:
    """A score that is 3 plus the effects of the levels."""
    return lambda variant: 3.0 + sum(effects.get(level, 0.0) for _, level in variant.levels)


def test_greedy_selection_keeps_what_helps() -> None:
    rounds = play(GreedyForward(), space(2, 1, 1), additive(a1=-0.1, a2=-0.3, b1=-0.2, c1=0.1))
    assert [names(found) for found in rounds] == [
        ["base", "a1", "a2", "b1", "c1"],
        ["a2, b1", "a2, c1"],
        ["a2, b1, c1"],
    ]
    assert rounds[1].reason == "added to a2, the best so far"
    assert len(play(GreedyForward(margin=0.35), space(2, 1), additive(a2=-0.3))) == 1, "within the margin"
    assert len(play(GreedyForward(), space(2, 1), additive(a1=0.3))) == 1, "nothing helps"
    assert len(play(GreedyForward(), space(1), additive(a1=-0.3))) == 1, "nothing is left to add"


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(0, 9))
def test_with_additive_effects_greedy_selection_finds_the_best(sizes: list[int], seed: int) -> None:
    draw, where = random.Random(seed), space(*sizes)
    effects = {level.name: draw.uniform(-1, 1) for factor in where.factors for level in factor.levels}
    best = 3.0 + sum(min(0.0, *(effects[level.name] for level in factor.levels)) for factor in where.factors)
    rounds = play(GreedyForward(), where, additive(**effects))
    assert min(additive(**effects)(v) for found in rounds for v in found.variants) == pytest.approx(best)


def test_a_variant_without_a_score_is_never_kept() -> None:
    rounds = play(GreedyForward(), space(1, 1), lambda v: math.inf if "a1" in v.name else 3.0 - 0.1 * len(v.levels))
    assert names(rounds[1]) == ["a1, b1"] and len(rounds) == 2
    assert len(play(GreedyForward(), space(1), lambda v: math.inf)) == 1


def test_halving_keeps_the_better_half_and_trains_it_longer() -> None:
    score = additive(a1=0.1, a2=-0.1, a3=0.2, a4=-0.2, a5=0.3, a6=0.4, a7=0.5, a8=0.6)
    rounds = play(SuccessiveHalving(first=0.25), space(8), score)
    assert [found.share for found in rounds] == [0.25, 0.5, 1.0]
    assert names(rounds[1]) == ["base", "a1", "a2", "a3", "a4"] and names(rounds[2]) == ["base", "a2", "a4"]
    assert rounds[1].reason == "the best 4 of 8, continued to 0.5 of the training"
    assert len(play(SuccessiveHalving(first=1.0), space(3), score)) == 1
    odd = play(SuccessiveHalving(first=0.3, keep=0.3), space(4), score)
    assert [found.share for found in odd] == [0.3, 1.0] and names(odd[1]) == ["base", "a4"]
    broken = play(SuccessiveHalving(), space(2), lambda v: math.inf if v != BASE else 3.0)
    assert names(broken[-1]) == ["base"] and broken[-1].share == 1.0
    with pytest.raises(RecipeError, match="cannot come from a halving"):
        SuccessiveHalving(among=part(SuccessiveHalving))


# ---- Optuna --------------------------------------------------------------------------------------------------------


def stand_in(told: list[tuple[dict[str, str], Any]]) -> SimpleNamespace:
    """A package with the ask-and-tell interface of Optuna, which asks at random. told: receives what it is told."""

    class Study:
        def __init__(self, sampler: random.Random) -> None:
            self.draw = sampler

        def ask(self) -> SimpleNamespace:
            params = dict[str, str]()

            def suggest(name: str, choices: list[str]) -> str:
                return params.setdefault(name, self.draw.choice(choices))

            return SimpleNamespace(params=params, suggest_categorical=suggest)

        def tell(self, trial: SimpleNamespace, value: float | None = None, state: str = "") -> None:
            told.append((trial.params, state or value))

    samplers = SimpleNamespace(RandomSampler=lambda seed: random.Random(seed))
    return SimpleNamespace(
        create_study=lambda direction, sampler: Study(sampler),
        samplers=samplers,
        trial=SimpleNamespace(TrialState=SimpleNamespace(FAIL="failed")),
        logging=SimpleNamespace(WARNING=30, set_verbosity=lambda level: None),
    )


def test_trials_are_asked_and_told_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[tuple[dict[str, str], Any]]()
    monkeypatch.setitem(sys.modules, "optuna", stand_in(told))
    score = additive(a1=-1.0, b1=2.0)
    rounds = play(
        OptunaSearch(trials=12, at_a_time=3, sampler="random"),
        space(2, 1),
        lambda v: math.inf if "a2" in v.name else score(v),
    )
    tried = [variant for found in rounds for variant in found.variants]
    assert tried[0] == BASE and len(set(tried)) == len(tried), "equal trials are run once"
    last = told[-12:]
    for params, value in last:
        variant = space(2, 1).variant({name: level for name, level in params.items() if level != AS_IN_BASE})
        assert value == ("failed" if "a2" in variant.name else score(variant))
    assert rounds[1].reason.endswith("of 12 (random)")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match="OptunaSearch needs the package optuna") as error:
        OptunaSearch().next_round(space(1), ())
    assert "bitgolf[optuna]" in error.value.hint


def test_optuna_itself_finds_the_best_of_few() -> None:
    pytest.importorskip("optuna", reason="needs the extra `optuna`")
    rounds = play(OptunaSearch(trials=16), space(2, 2), additive(a1=-0.2, a2=0.3, b1=-0.1, b2=0.2))
    assert "a1, b1" in [variant.name for found in rounds for variant in found.variants]
    again = play(OptunaSearch(trials=16), space(2, 2), additive(a1=-0.2, a2=0.3, b1=-0.1, b2=0.2))
    assert again == rounds, "the same results lead to the same trials"
