"""How often an audit misses a cheat, against the chance that its number of questions states."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from scipy.stats import binom

from attacks.evaluations.suite import Cheat, audit_on
from bitgolf.score.audit.audit import DEFAULT_BUDGET
from bitgolf.score.audit.budget import AuditBudget

CHECKS = {
    "lookahead": "causality",
    "last-epoch": "causality",
    "two-pass": "causality",
    "fitted-to-own-targets": "causality",
    "document-lengths": "lengths",
}  # all other rules of sampled checks are of "sums"


class EscapeRow(NamedTuple):
    """A cheat over several seeds.

    share: of the targets at which a question shows it, 0 if no questions are asked. gain: bits per byte against its
    honest counterpart. asked: questions of its check. stated: chance that they miss it, (1 - share)^asked at most.
    escaped: seeds of which the audit found nothing. named: seeds in which the first rule is the expected one.
    runs: of the evaluation, on average.
    """

    name: str
    share: float
    gain: float
    asked: int
    stated: float
    seeds: int
    escaped: int
    named: int
    runs: float


def measure_escapes(cheat: Cheat, seeds: int, budget: AuditBudget = DEFAULT_BUDGET) -> EscapeRow:
    """Audit a cheat with each seed."""
    found = [audit_on(cheat.corpus, cheat.cheat, budget, seed) for seed in range(seeds)]
    honest = audit_on(cheat.corpus, cheat.honest, budget._replace(confidence=0.5, share=0.5))
    check = CHECKS.get(cheat.rule, "sums")
    asked = max((c.asked for report in found for c in report.checks if c.check == check), default=0)
    asked = asked if cheat.share else 0
    return EscapeRow(
        cheat.name,
        cheat.share,
        honest.claimed - found[0].claimed,
        asked,
        (1 - cheat.share) ** asked if cheat.share else 0.0,
        seeds,
        sum(report.verdict == "passes" for report in found),
        sum(report.verdict == cheat.rule for report in found),
        sum(report.runs for report in found) / seeds,
    )


def improbable_escapes(rows: Iterable[EscapeRow]) -> list[EscapeRow]:
    """The rows with so many escapes that the stated chance gives them with less than one in ten thousand."""
    return [row for row in rows if row.escaped and binom.sf(row.escaped - 1, row.seeds, row.stated) < 1e-4]
