"""What documents may know of one another: nothing where they are isolated, and the lengths of later ones nowhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bitgolf.score.audit.evaluation import Bools, ClaimedScore, Ints
from bitgolf.score.audit.findings import AuditFinding, error
from bitgolf.score.audit.harness import AuditHarness
from bitgolf.score.document_order import LongestFirstOrder
from bitgolf.score.text import append_final_bos

MIN_PAID_FRACTION = 0.5  # of the bits that our own code for lengths takes: another code may be better


def check_isolation(exam: AuditHarness) -> Iterator[AuditFinding]:
    """One document is replaced by random tokens, as long as it was: no other document's charge may move."""
    spans = exam.text.documents()
    if not exam.isolated or len(spans) < 2:
        return
    later, earlier = 0, 0
    for chosen in exam.choice(range(len(spans)), exam.budget.documents):
        start, stop = spans[chosen]
        inside = np.zeros(len(exam.text.tokens), bool)
        inside[start:stop] = True
        before, after = exam.baseline.claim, exam.run(exam.perturb(exam.text.tokens, inside)).claim
        moved = exam.document_of[_moved(before, after, exam.budget.tolerance)]
        later, earlier = later + int((moved > chosen).sum()), earlier + int((moved < chosen).sum())
    for rule, count in (("document-leak", later), ("batch-leak", earlier)):
        if count:
            yield error(rule, f"{count} charges moved", targets=count)


def _moved(before: ClaimedScore, after: ClaimedScore, exact: float) -> Ints:
    """The targets whose charges differ."""
    if not np.array_equal(before.positions, after.positions):
        return np.unique(before.positions)
    return before.positions[np.abs(before.bits - after.bits) > exact]


def check_length_leak(exam: AuditHarness) -> Iterator[AuditFinding]:
    """Documents that are charged after a cut get other lengths: what is charged before it must stay as it was.

    An entry that pays for the lengths (`ClaimedScore.side_bits`) may know them.
    """
    spans, claim = np.array(exam.text.documents(), np.int64), exam.baseline.claim
    sizes = spans[:, 1] - spans[:, 0]
    if len(spans) < 3 or (
        claim.side_bits and claim.side_bits >= MIN_PAID_FRACTION * LongestFirstOrder().side_bits(sizes)
    ):
        return
    ends = [np.flatnonzero(exam.document_of[claim.positions] == i).max(initial=-1) for i in range(len(spans))]
    order = np.argsort(ends, kind="stable")
    worst = max(
        _length_effect(exam, sizes, np.isin(np.arange(len(sizes)), order[:kept]))
        for kept in exam.choice(range(1, len(order) - 1), exam.budget.layouts)
    )
    if worst > exam.budget.shape_tolerance:
        seen = "in another order" if np.isinf(worst) else f"by {worst:.2g} bits a target"
        yield error("document-lengths", seen, bits=worst)


def _length_effect(exam: AuditHarness, sizes: Ints, kept: Bools) -> float:
    """By how much charges move, bits on the mean, that come before any of a document that is not kept; infinite where
    they come in another order."""
    before = exam.baseline.claim
    first = int(np.append(kept[exam.document_of[before.positions]], False).argmin())
    resized = sizes.copy()
    resized[~kept] = exam.random_lengths(int(sizes[~kept].sum()), int((~kept).sum()))
    after = exam.run(_with_lengths(exam, resized, kept)).claim
    places = (
        _document_positions(before.positions[:first], sizes),
        _document_positions(after.positions[:first], resized),
    )
    if not np.array_equal(*places):
        return np.inf
    return float(np.abs(before.bits[:first] - after.bits[:first]).mean()) if first else 0.0


def _with_lengths(exam: AuditHarness, sizes: Ints, kept: Bools) -> Ints:
    """The kept documents as they are, the others of these sizes and of random tokens."""
    starts = [start for start, _ in exam.text.documents()]
    bos = exam.tokenizer.bos
    pieces = [
        exam.text.tokens[start : start + size] if keep else np.append(bos, exam.random_tokens(size - 1))
        for start, size, keep in zip(starts, sizes.tolist(), kept.tolist(), strict=True)
    ]
    return append_final_bos(np.concatenate(pieces), bos)


def _document_positions(targets: Ints, sizes: Ints) -> Ints:
    """The document of each target, and its place there, (2, n)."""
    document = np.searchsorted(np.cumsum(sizes), targets, side="right")
    return np.stack([document, targets - (np.cumsum(sizes) - sizes)[document]])
