"""The plan of an audit: how many questions each check asks, and how many runs they take."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bitgolf.score.audit.budget import CheckCoverage
from bitgolf.score.audit.evaluation import ClaimedScore, Ints
from bitgolf.score.audit.harness import AuditHarness
from bitgolf.score.audit.normalization import expected_runs

FIRST_RUNS = 3  # the claim, the baseline, and the run that is asked for distributions
CRAFTED_RUNS = 5  # of `check_denominator`


class AuditPlan(NamedTuple):
    """The checks that follow the first runs, with the runs that they take if they find nothing."""

    checks: list[CheckCoverage]

    @property
    def runs(self) -> int:
        """All runs, the first ones included."""
        return FIRST_RUNS + sum(check.runs for check in self.checks)

    def coverage(self, name: str, runs: int) -> CheckCoverage | None:
        """The planned check of this name with the runs that it took; None if it does not apply."""
        return next((check._replace(runs=runs) for check in self.checks if check.check == name), None)


def plan_audit(harness: AuditHarness, asked: Ints, reported: ClaimedScore) -> AuditPlan:
    """The plan after the first runs. asked, reported: as for `check_normalization`."""
    budget, documents = harness.budget, len(harness.spans)
    questions = min(budget.questions, len(harness.charges.order))
    splits, layouts = 2 * budget.splits, min(budget.questions, max(documents - 2, 0))
    handed = int(np.isin(asked, list(reported.distributions)).sum())
    summed = handed + min(len(asked) - handed, budget.summed_targets or len(asked))
    checks = [CheckCoverage(name, 0, "everything", runs, 0.0) for name, runs in _COMPLETE.items()]
    if harness.isolated and documents > 1:
        checks.append(CheckCoverage("isolation", splits, "halves of the documents", splits, 0.5**budget.splits))
    cuts = -(-questions // documents) if harness.isolated else questions
    checks.append(CheckCoverage("causality", questions, "targets", cuts, _escape(harness, questions)))
    if harness.isolated and documents > 2:
        checks.append(CheckCoverage("lengths", splits, "halves of the documents", splits, 0.5**budget.splits))
    elif documents > 2:
        escape = 0.0 if layouts == documents - 2 else _escape(harness, layouts)
        checks.append(CheckCoverage("lengths", layouts, "documents", layouts, escape))
    runs = expected_runs(harness, asked, reported)
    checks.append(CheckCoverage("sums", summed, "targets", runs, _escape(harness, summed)))
    checks.append(CheckCoverage("stored text", 0, "everything", 1, 0.0))
    return AuditPlan(checks)


_COMPLETE = {"determinism": 0, "coverage": 0, "tokenizer": 0, "bytes": CRAFTED_RUNS, "phases": 0}


def _escape(harness: AuditHarness, questions: int) -> float:
    """The chance that this many questions miss the budget's share of the units."""
    return float((1 - harness.budget.share) ** questions) if questions < harness.text.num_targets else 0.0
