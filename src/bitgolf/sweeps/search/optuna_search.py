"""Optuna's samplers as a search. Needs the extra `optuna`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Literal

from bitgolf.config.ranges import Count, Seed
from bitgolf.config.registry import register
from bitgolf.errors import UsageError
from bitgolf.sweeps.factors import BASE, SearchSpace, SweepVariant
from bitgolf.sweeps.search.search import FinishedRound, Round, Search

AS_IN_BASE = "as in the base"
"""The choice of a factor that leaves the recipe as it is."""


@register
class OptunaSearch(Search):
    """A sampler of Optuna (Akiba et al., 2019, arXiv:1907.10902) chooses a level, or none, for each factor.

    trials: variants in all, of which equal ones are run once. at_a_time: variants that are chosen before the next results,
    and run at the same time with as many workers. sampler: `tpe` (tree-structured Parzen estimator), `gp` (Gaussian
    process) or `random`. seed: of the sampler. The study is made again from the results whenever the next trials are
    chosen, so an interrupted sweep goes on with the same trials. A variant without a score is told as failed.
    """

    def __init__(
        self,
        *,
        trials: Count = 20,
        at_a_time: Count = 1,
        sampler: Literal["tpe", "gp", "random"] = "tpe",
        seed: Seed = 0,
    ) -> None:
        self.trials, self.at_a_time, self.sampler, self.seed = trials, at_a_time, sampler, seed

    def next_round(self, space: SearchSpace, finished: Sequence[FinishedRound]) -> Round | None:
        optuna = import_optuna()
        if not finished:
            return Round((BASE,), "the base")
        study = self._study(optuna)
        known = {result.variant: result.mean for past in finished for result in past.results}
        asked = 0
        while asked < self.trials:
            count = min(self.at_a_time, self.trials - asked)
            trials = [study.ask() for _ in range(count)]
            chosen = [_choose(space, trial) for trial in trials]
            asked += count
            if new := tuple(dict.fromkeys(variant for variant in chosen if variant not in known)):
                return Round(new, f"trials {asked - count + 1} to {asked} of {self.trials} ({self.sampler})")
            for trial, variant in zip(trials, chosen, strict=True):
                _tell(optuna, study, trial, known[variant])
        return None

    def _study(self, optuna: Any) -> Any:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        samplers = {"tpe": "TPESampler", "gp": "GPSampler", "random": "RandomSampler"}
        sampler = getattr(optuna.samplers, samplers[self.sampler])(seed=self.seed)
        return optuna.create_study(direction="minimize", sampler=sampler)


def _choose(space: SearchSpace, trial: Any) -> SweepVariant:
    """The variant of a trial."""
    levels = dict[str, str]()
    for factor in space.factors:
        name = trial.suggest_categorical(factor.name, [AS_IN_BASE, *(level.name for level in factor.levels)])
        if name != AS_IN_BASE:
            levels[factor.name] = name
    return space.variant(levels)


def _tell(optuna: Any, study: Any, trial: Any, mean: float) -> None:
    if mean == float("inf"):
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(trial, mean)


def import_optuna() -> Any:
    """The package optuna. Raises `UsageError` if it is not installed."""
    try:
        return import_module("optuna")
    except ImportError as error:
        hint = "pip install 'bitgolf[optuna]', or use Grid, OneAtATime, GreedyForward or SuccessiveHalving"
        raise UsageError("OptunaSearch needs the package optuna", where="--search", hint=hint) from error
