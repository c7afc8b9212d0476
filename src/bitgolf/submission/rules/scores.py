"""Rules on claimed scores and seeds, against the folder's own logs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from bitgolf.submission.claims import Claim, Claims
from bitgolf.submission.finding import Found, Record, RecordRule
from bitgolf.submission.folder import CLAIMS
from bitgolf.submission.log_figures import LogFigures
from bitgolf.submission.support import is_score, supporting_logs

NEEDED_SEEDS = 3
"""Seeds of which the challenge asks for logs."""
RESULT_SUFFIXES = {".json", ".jsonl", ".csv", ".tsv"}
"""Files beside logs in which a script may have written its results."""


def claim_not_in_logs(record: Record) -> Found:
    """The claimed score is in no log, and is no mean of scores of the logs."""
    claims = record.claims
    claim = claims.bpb if claims else None
    if not claims or not claim or not record.logs or not is_score(claim):
        return
    if not supporting_logs(claim, record.logs) and not _is_quoted(record, claim):
        nearest = min(_values(record.logs), key=lambda value: abs(value - claim.value))
        yield (
            CLAIMS,
            claims.line_of(claim.key),
            f"{claim.key} is {claim.value}, which no log has, nor any mean of the logs; the nearest score is {nearest}.",
        )


def seed_not_in_logs(record: Record) -> Found:
    """The result that is claimed for one seed is in no log."""
    claims = record.claims
    if not claims or not record.logs:
        return
    for seed, claim in claims.bpb_by_seed.items():
        if is_score(claim) and not supporting_logs(claim, record.logs) and not _is_quoted(record, claim):
            line = _line_of_seed(claims, seed)
            yield CLAIMS, line, f"The result of seed {seed}, {claim.value}, is in no log of the folder."


def few_seeds(record: Record) -> Found:
    runs = len({tuple(score.bpb for score in log.final_scores) for log in record.logs})
    if record.folder.is_timed and 0 < runs < NEEDED_SEEDS:
        yield "", 0, f"The folder has the logs of {runs} run(s); the challenge asks for {NEEDED_SEEDS} seeds."


def seed_without_log(record: Record) -> Found:
    """A seed is named among the claims, and no log has it in its name or text."""
    if not record.claims or not record.logs:
        return
    logged = {log.seed for log in record.logs}
    for seed in record.claims.seeds:
        named = any(str(seed) in log.name for log in record.logs)
        if seed not in logged and not named and None not in logged:
            yield CLAIMS, _line_of_seed(record.claims, seed), f"Seed {seed} is claimed, and no log is of that seed."


def repeated_log(record: Record) -> Found:
    """Logs of different seeds have the same scores to the last digit, so they are one run."""
    by_scores = defaultdict[tuple[float, ...], list[LogFigures]](list)
    for log in record.logs:
        by_scores[tuple(score.bpb for score in log.final_scores)].append(log)
    for same in by_scores.values():
        first, *others = same
        for other in others:
            if len(first.final_scores) > 1 and "" != _seed_in_name(first) != _seed_in_name(other) != "":
                yield other.name, 0, f"Its scores are those of {first.name}: the two are one run."


def _seed_in_name(log: LogFigures) -> str:
    match = re.search(r"seed[_-]?(\d+)|_s(\d+)", log.name)
    return (match[1] or match[2]) if match else ""


def _values(logs: Iterable[LogFigures]) -> list[float]:
    return [score.bpb for log in logs for score in log.scores]


def _is_quoted(record: Record, claim: Claim) -> bool:
    """Whether a log or a file of results has the figure in other words than this package knows."""
    written = f"{claim.value:.{claim.decimals}f}"
    files = [name for name in record.folder.files if name.suffix in RESULT_SUFFIXES and str(name) != CLAIMS]
    return any(written in record.folder.read(name) for name in (*files, *record.folder.log_files))


def _line_of_seed(claims: Claims, seed: int) -> int:
    position = next((p for text in (f'"{seed}"', str(seed)) if (p := claims.text.find(text)) >= 0), 0)
    return 1 + claims.text.count("\n", 0, position)


RULES = (
    RecordRule("claim-not-in-logs", "error", claim_not_in_logs),
    RecordRule("seed-not-in-logs", "error", seed_not_in_logs),
    RecordRule("few-seeds", "warning", few_seeds),
    RecordRule("seed-without-log", "warning", seed_without_log),
    RecordRule("repeated-log", "warning", repeated_log),
)
