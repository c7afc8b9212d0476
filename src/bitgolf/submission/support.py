"""Which logs of a folder are behind a claimed score: one that has it, or those whose mean it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from statistics import fmean

from bitgolf.submission.claims import Claim
from bitgolf.submission.log_figures import LogFigures, LoggedScore

MOST_AVERAGED = 8
"""Logs with one label of which the means of all subsets are compared with a claim; of more, only of three and of all."""
IRRELEVANT = 1e-4
"""Difference in bits per byte that is not held against a claim: less than a tenth of the spread between seeds."""
LIKELY_BPB = (0.3, 8.0)
"""Range outside which a number named bpb is something else."""

Scored = tuple[LogFigures, LoggedScore]


def is_score(claim: Claim | None) -> bool:
    """Whether a claim can be a score: in the likely range, with at least two decimal places."""
    return claim is not None and LIKELY_BPB[0] < claim.value < LIKELY_BPB[1] and claim.decimals >= 2


def agrees(claim: Claim, value: float, decimals: int) -> bool:
    """Whether a value with so many decimal places is the claimed one, rounded or cut, or differs by almost nothing."""
    return abs(value - claim.value) < max(IRRELEVANT, 1.01 * 10.0 ** -min(claim.decimals, decimals))


def supporting_logs(claim: Claim, logs: Sequence[LogFigures]) -> list[LogFigures]:
    """Return the logs behind a claim: those that have it as a score, else a set of logs whose mean it is, else none."""
    direct = [log for log in logs if any(agrees(claim, s.bpb, s.decimals) for s in log.scores)]
    if direct:
        return direct
    for scored in _by_label(logs):
        for chosen in _subsets(scored):
            mean = fmean(score.bpb for _, score in chosen)
            if agrees(claim, mean, min(score.decimals for _, score in chosen)):
                return [log for log, _ in chosen]
    return []


def _by_label(logs: Sequence[LogFigures]) -> Iterator[list[Scored]]:
    """Yield, for each label, the logs that have it with their last score of it; then the last and best of all logs."""
    yield [(log, log.final_scores[-1]) for log in logs]
    yield [(log, min(log.final_scores, key=lambda score: score.bpb)) for log in logs]
    labelled = defaultdict[str, list[Scored]](list)
    for log in logs:
        for label, last in {score.label: score for score in log.final_scores}.items():
            labelled[label].append((log, last))
    yield from labelled.values()


def _subsets(
    scored: list[Scored],
) -> Iterable[Sequence[Scored]]:
    """Yield the sets of logs whose mean a claim can be, the largest first."""
    sizes = range(len(scored), 1, -1) if len(scored) <= MOST_AVERAGED else (len(scored), 3)
    for size in sizes:
        yield from combinations(scored, size)
