"""Whether charges depend on what comes later. How far they do tells which cheat it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bitgolf.score.audit.evaluation import Bools, ClaimedScore
from bitgolf.score.audit.findings import AuditFinding, error
from bitgolf.score.audit.harness import AuditHarness

LOOKAHEAD_TARGETS = 12  # targets: a mask that is off by one reaches a token further with each layer
WHOLE_FRACTION = 0.6  # of a document's or a text's charges: they were moved as a whole


class CausalityLeak(NamedTuple):
    """Charges that moved with tokens behind a cut. reach: targets from the first of them to the cut, of so many that
    the cut's document and the text had by then; leaves: some are of other documents; bits: the most that one moved."""

    reach: int
    of_document: int
    of_text: int
    crosses_document: bool
    bits: float


def check_causality(exam: AuditHarness) -> Iterator[AuditFinding]:
    """Behind a cut every token is replaced by a random one: no charge up to the cut may move.

    "Later" is what is charged later, so that an entry may score documents in any order that does not depend on them.
    This is the replay of an adaptation, too: what was learned of scored tokens is the same in both runs.
    """
    leaks = [leak for cut in choose_cuts(exam) if (leak := _find_leak(exam, cut))]
    if leaks:
        far = max(leak.reach for leak in leaks)
        seen = f"{len(leaks)} of {exam.budget.cuts} cuts, up to {far} targets back, by up to {max(leak.bits for leak in leaks):.2g} bits"
        yield error(_rule_for(leaks), seen, leaks=len(leaks), reach=far, bits=max(leak.bits for leak in leaks))


def _rule_for(leaks: list[CausalityLeak]) -> str:
    if max(leak.reach for leak in leaks) <= LOOKAHEAD_TARGETS:
        return "lookahead"
    if any(leak.crosses_document for leak in leaks):
        return (
            "two-pass" if max(leak.reach / leak.of_text for leak in leaks) > WHOLE_FRACTION else "fitted-to-own-targets"
        )
    return (
        "last-epoch"
        if max(leak.reach / leak.of_document for leak in leaks) > WHOLE_FRACTION
        else "fitted-to-own-targets"
    )


def choose_cuts(exam: AuditHarness) -> list[int]:
    """Charges behind which the text is altered: deep in long documents of the second half, where a reach can be told."""
    order = exam.baseline.claim.positions
    documents = [(start, stop) for start, stop in exam.text.documents() if stop > exam.text.num_targets // 2]
    longest = sorted(documents, key=lambda span: span[0] - span[1])[: max(1, (len(documents) + 1) // 2)]
    targets = [_deep(exam, longest[i % len(longest)]) for i in range(exam.budget.cuts)]
    return [int(np.flatnonzero(order == target)[0]) for target in targets if target in order]


def _deep(exam: AuditHarness, span: tuple[int, int]) -> int:
    start, stop = span
    return exam.randint(start + 3 * (stop - start) // 5, stop - 1)


def _find_leak(exam: AuditHarness, cut: int) -> CausalityLeak | None:
    """What moved of the charges up to the cut, when all targets that are charged only later are others."""
    claim = exam.baseline.claim
    done = np.zeros(len(exam.text.tokens), bool)
    done[0], done[claim.positions[: cut + 1] + 1] = True, True
    other = exam.run(exam.perturb(exam.text.tokens, ~done)).claim
    moved = np.flatnonzero(_changed(exam, cut, other))
    if not len(moved):
        return None
    here = exam.document_of[claim.positions[cut]]
    of_document = int((exam.document_of[claim.positions[: cut + 1]] == here).sum())
    leaves = bool((exam.document_of[claim.positions[moved]] != here).any())
    bits = float(np.abs(claim.bits[moved] - other.bits[moved]).max()) if len(other.bits) > cut else np.inf
    return CausalityLeak(cut - int(moved[0]) + 1, of_document, cut + 1, leaves, bits)


def _changed(exam: AuditHarness, cut: int, other: ClaimedScore) -> Bools:
    """Which charges up to the cut are of another target than they were, or of another size."""
    claim, n = exam.baseline.claim, min(cut + 1, len(other.bits))
    result = np.ones(cut + 1, bool)
    apart = np.abs(claim.bits[:n] - other.bits[:n]) > exam.budget.tolerance
    result[:n] = (claim.positions[:n] != other.positions[:n]) | apart
    return result
