"""Check that bits do not depend on later tokens. The distance of the dependence identifies the kind of leak."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bitgolf.score.audit.evaluation import Bools, ClaimedScore
from bitgolf.score.audit.findings import AuditFinding, error
from bitgolf.score.audit.harness import AuditHarness

LOOKAHEAD_TARGETS = 12  # maximum reach of a mask that is off by one: it leaks one token per layer
WHOLE_FRACTION = 0.6  # reach, as a share of a document or text, above which the leak covers all of it


class CausalityLeak(NamedTuple):
    """Bits of targets up to a cut that changed when the tokens after the cut were replaced.

    reach: number of targets from the first changed one to the cut. of_document, of_text: number of targets that the
    document of the cut and the text have up to the cut. crosses_document: whether targets of other documents changed.
    bits: maximum change.
    """

    reach: int
    of_document: int
    of_text: int
    crosses_document: bool
    bits: float


def check_causality(harness: AuditHarness) -> Iterator[AuditFinding]:
    """Replace every token after a cut by a random one: the bits of all targets up to the cut must not change.

    "After" refers to the order of scoring, so an evaluation may score documents in any order that does not depend on
    them. The check covers adaptation, since adapting to the tokens before the cut gives the same weights in both runs.
    """
    leaks = [leak for cut in choose_cuts(harness) if (leak := _find_leak(harness, cut))]
    if leaks:
        far = max(leak.reach for leak in leaks)
        bits = max(leak.bits for leak in leaks)
        details = f"{len(leaks)} of {harness.budget.cuts} cuts, up to {far} targets back, by up to {bits:.2g} bits"
        yield error(_rule_for(leaks), details, leaks=len(leaks), reach=far, bits=bits)


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


def choose_cuts(harness: AuditHarness) -> list[int]:
    """Cuts, as indices in the order of scoring: late in long documents of the second half, so that reaches differ."""
    order = harness.baseline.claim.positions
    documents = [(start, stop) for start, stop in harness.text.documents() if stop > harness.text.num_targets // 2]
    longest = sorted(documents, key=lambda span: span[0] - span[1])[: max(1, (len(documents) + 1) // 2)]
    targets = [_late_target(harness, longest[i % len(longest)]) for i in range(harness.budget.cuts)]
    return [int(np.flatnonzero(order == target)[0]) for target in targets if target in order]


def _late_target(harness: AuditHarness, span: tuple[int, int]) -> int:
    """A random target of the last two fifths of a document."""
    start, stop = span
    return harness.randint(start + 3 * (stop - start) // 5, stop - 1)


def _find_leak(harness: AuditHarness, cut: int) -> CausalityLeak | None:
    """The change of bits up to the cut when all targets scored after it are replaced; None if there is no change."""
    claim = harness.baseline.claim
    done = np.zeros(len(harness.text.tokens), bool)
    done[0], done[claim.positions[: cut + 1] + 1] = True, True
    altered = harness.run(harness.perturb(harness.text.tokens, ~done)).claim
    changed = np.flatnonzero(_changed(harness, cut, altered))
    if not len(changed):
        return None
    here = harness.document_of[claim.positions[cut]]
    of_document = int((harness.document_of[claim.positions[: cut + 1]] == here).sum())
    leaves = bool((harness.document_of[claim.positions[changed]] != here).any())
    bits = float(np.abs(claim.bits[changed] - altered.bits[changed]).max()) if len(altered.bits) > cut else np.inf
    return CausalityLeak(cut - int(changed[0]) + 1, of_document, cut + 1, leaves, bits)


def _changed(harness: AuditHarness, cut: int, altered: ClaimedScore) -> Bools:
    """(cut + 1,): which of the bits up to the cut differ, or belong to another target than before."""
    claim, n = harness.baseline.claim, min(cut + 1, len(altered.bits))
    result = np.ones(cut + 1, bool)
    apart = np.abs(claim.bits[:n] - altered.bits[:n]) > harness.budget.tolerance
    result[:n] = (claim.positions[:n] != altered.positions[:n]) | apart
    return result
