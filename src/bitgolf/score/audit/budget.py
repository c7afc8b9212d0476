"""The size of an audit: how many questions are asked, so that a cheat at a given share of the text is found."""

from __future__ import annotations

import math
from typing import NamedTuple

from bitgolf.errors import UsageError


class AuditBudget(NamedTuple):
    """Confidence and tolerances of an audit, and the time limit of a run.

    confidence, share: each check asks so many questions that a violation at `share` of the targets is found with
    probability `confidence`, if a question at such a target shows it. Questions are drawn from equal parts of the text
    and of the documents, so a share f escapes m questions with probability (1 - f)^m at most, wherever it is.
    swaps: tokens that are put in the place of a target whose distribution the evaluation reports.
    summed_targets: maximum number of targets at which all tokens are tried, if it does not report distributions; 0 for
    as many as the confidence requires. candidates: tokens that are tried there, the most frequent ones; 0 for all.
    tolerance: maximum change of a target's bits if the shape of the text stays the same. shape_tolerance: maximum mean
    change over a document if it does not, as other shapes round differently. timeout: seconds per run.
    """

    confidence: float = 0.95
    share: float = 0.1
    swaps: int = 2
    summed_targets: int = 0
    candidates: int = 512
    tolerance: float = 1e-6
    shape_tolerance: float = 1e-3
    timeout: float = 600.0

    @property
    def questions(self) -> int:
        """Questions of a check that draws targets, or documents."""
        return questions_for(self.confidence, self.share)

    @property
    def splits(self) -> int:
        """Random divisions of the documents in two halves: each shows a given pair with probability 1/2."""
        return questions_for(self.confidence, 0.5)


def questions_for(confidence: float, share: float) -> int:
    """Questions needed to hit a share of the targets with a probability. Raises `UsageError` unless both are in (0, 1)."""
    for name, value in (("confidence", confidence), ("share", share)):
        if not 0 < value < 1:
            raise UsageError(f"the {name} of an audit must be above 0 and below 1, got {value}", where="audit")
    return math.ceil(math.log1p(-confidence) / math.log1p(-share) - 1e-9)


class CheckCoverage(NamedTuple):
    """How thorough a check was.

    asked: questions, each about one of `units`; 0 if the check covers everything. runs: of the evaluation.
    escape: probability that a violation at the budget's share of the targets was missed, at most.
    """

    check: str
    asked: int
    units: str
    runs: int
    escape: float
