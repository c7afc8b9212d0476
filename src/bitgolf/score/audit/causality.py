"""Check that bits do not depend on later tokens. How far the dependence reaches identifies the kind of leak."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bitgolf.score.audit.evaluation import Bools, Ints
from bitgolf.score.audit.findings import AuditFinding, error
from bitgolf.score.audit.harness import FILLS, AuditHarness

LOOKAHEAD_TARGETS = 12  # maximum reach of a mask that is off by one: it leaks one token per layer
DEEP_CUTS, FOLLOWED_DOCUMENTS = (
    (0.6, 0.75, 0.9),
    4,
)  # cuts, as fractions of a document, that tell how far a leak reaches
WHOLE_FRACTION = 0.7  # reach, as a share of a document or text, above which the leak covers all of it


class CausalityLeak(NamedTuple):
    """Bits of targets up to a cut that changed when the tokens after the cut were replaced.

    cut: the last target that is kept. first: the first changed one, in the order of scoring.
    reach: number of targets from the first changed one to the cut. of_document, of_text: number of targets that the
    document of the cut and the text have up to the cut. crosses_document: whether targets of other documents changed.
    bits: maximum change.
    """

    cut: int
    first: int
    reach: int
    of_document: int
    of_text: int
    crosses_document: bool
    bits: float


def check_causality(harness: AuditHarness) -> Iterator[AuditFinding]:
    """Replace every token after a cut: the bits of all targets up to the cut must not change.

    "After" refers to the order of scoring, so an evaluation may score documents in any order that does not depend on
    them. Isolated documents are cut all in the same run, each at its own target, and compared whatever their order.
    The check covers adaptation, since adapting to the tokens before the cut gives the same weights in both runs.
    """
    cuts = harness.draw(harness.charges.order, harness.budget.questions)
    harness.random.shuffle(cuts)
    leaks = list[CausalityLeak]()
    for i, together in enumerate(harness.by_run(cuts)):
        leaks += _find_leaks(harness, together, FILLS[i % len(FILLS)])
    if leaks:
        far, bits = max(leak.reach for leak in leaks), max(leak.bits for leak in leaks)
        details = f"{len(leaks)} of {len(cuts)} cuts, up to {far} targets back, by up to {bits:.2g} bits"
        yield error(_rule_for(harness, leaks), details, leaks=len(leaks), reach=far, bits=bits)


def _rule_for(harness: AuditHarness, leaks: list[CausalityLeak]) -> str:
    if max(leak.reach for leak in leaks) <= LOOKAHEAD_TARGETS and _moves_with_cut(harness, leaks):
        return "lookahead"
    crossing = [leak for leak in leaks if leak.crosses_document]
    if crossing:
        last = max(crossing, key=lambda leak: leak.of_text)
        return "two-pass" if last.reach > WHOLE_FRACTION * last.of_text else "fitted-to-own-targets"
    deep = (leak for leak in _deep_leaks(harness, leaks) if leak.reach > WHOLE_FRACTION * leak.of_document)
    return "last-epoch" if next(deep, None) else "fitted-to-own-targets"


def _deep_leaks(harness: AuditHarness, leaks: list[CausalityLeak]) -> Iterator[CausalityLeak]:
    """Leaks from the second half of a document: a cut in the first half hardly shows how far they reach.

    After those that were found come new ones, from a few of the documents that leak.
    """
    size = harness.spans[:, 1] - harness.spans[:, 0]
    yield from (leak for leak in leaks if 2 * leak.of_document >= size[harness.document_of[leak.cut]])
    order = harness.charges.order
    for document in np.unique(harness.document_of[[leak.cut for leak in leaks]])[:FOLLOWED_DOCUMENTS]:
        own = order[harness.document_of[order] == document]
        for fraction in DEEP_CUTS:
            for fill in FILLS:
                yield from _find_leaks(harness, own[[int(fraction * (len(own) - 1))]], fill)


def _moves_with_cut(harness: AuditHarness, leaks: list[CausalityLeak]) -> bool:
    """Whether the first changed target moves when the cut moves by one target, as it does not in a fitted window."""
    longest = max(leaks, key=lambda leak: leak.reach)
    order = harness.charges.order
    place = int(np.flatnonzero(order == longest.cut)[0])
    near = order[max(place - 2, 0) : place + 3]
    near = near[(harness.document_of[near] == harness.document_of[longest.cut]) & (near != longest.cut)]
    firsts = [leak.first for cut in near for leak in _find_leaks(harness, np.array([cut]), "random")]
    return len({longest.first, *firsts}) == len(firsts) + 1


def _find_leaks(harness: AuditHarness, cuts: Ints, fill: str) -> Iterator[CausalityLeak]:
    """The changes of bits up to each of the cuts, which are in different documents, in one run."""
    kept = np.ones(harness.text.num_targets, bool)
    before = [harness.up_to(cut) for cut in cuts.tolist()]
    tokens = harness.text.tokens.copy()
    for cut, up_to in zip(cuts, before, strict=True):
        own = harness.document_of == harness.document_of[cut] if harness.isolated else np.ones(len(kept), bool)
        kept[own] = np.isnan(harness.charges.bits[own]) & (np.flatnonzero(own) < up_to.max())  # never scored, but read
        kept[up_to] = True
        inside = np.append(True, own)  # target t is token t + 1
        tokens[inside] = harness.perturb(tokens[inside], ~np.append(True, kept[own]), fill)
    altered = harness.charges_on(tokens)
    changed = harness.charges.differ(altered, harness.budget.tolerance)
    if not harness.isolated:  # the order of scoring must not depend on later tokens either
        n = len(before[0])
        other = np.append(altered.order, np.full(n, -1))[:n]
        changed[before[0]] |= before[0] != other
    for cut, up_to in zip(cuts, before, strict=True):
        if changed[up_to].any():
            yield _leak(harness, int(cut), up_to, changed, np.abs(harness.charges.bits - altered.bits))


def _leak(harness: AuditHarness, cut: int, up_to: Ints, changed: Bools, change: Ints) -> CausalityLeak:
    places = np.flatnonzero(changed[up_to])
    here = harness.document_of[up_to] == harness.document_of[cut]
    amount = change[up_to[places]]
    return CausalityLeak(
        cut,
        int(up_to[places[0]]),
        len(up_to) - int(places[0]),
        int(here.sum()),
        len(up_to),
        bool((~here[places]).any()),
        float(np.where(np.isnan(amount), np.inf, amount).max()),
    )
