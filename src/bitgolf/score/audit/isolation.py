"""Check that isolated documents do not affect one another, and that bits do not depend on later documents' lengths."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bitgolf.score.audit.evaluation import Bools, ClaimedScore, Ints
from bitgolf.score.audit.findings import AuditFinding, error
from bitgolf.score.audit.harness import AuditHarness
from bitgolf.score.document_order import LongestFirstOrder
from bitgolf.score.text import append_final_bos

MIN_PAID_FRACTION = 0.5  # minimum side bits, as a share of `encode_lengths`: another code for lengths may be better


def check_isolation(harness: AuditHarness) -> Iterator[AuditFinding]:
    """Replace one document by random tokens of the same number: the bits of the other documents must not change."""
    spans = harness.text.documents()
    if not harness.isolated or len(spans) < 2:
        return
    later, earlier = 0, 0
    for chosen in harness.choice(range(len(spans)), harness.budget.documents):
        start, stop = spans[chosen]
        inside = np.zeros(len(harness.text.tokens), bool)
        inside[start:stop] = True
        before, after = harness.baseline.claim, harness.run(harness.perturb(harness.text.tokens, inside)).claim
        affected = harness.document_of[_changed_targets(before, after, harness.budget.tolerance)]
        later, earlier = later + int((affected > chosen).sum()), earlier + int((affected < chosen).sum())
    for rule, count in (("document-leak", later), ("batch-leak", earlier)):
        if count:
            yield error(rule, f"the bits of {count} targets changed", targets=count)


def _changed_targets(before: ClaimedScore, after: ClaimedScore, exact: float) -> Ints:
    """The targets whose bits differ by more than `exact`; all targets if the order of scoring differs."""
    if not np.array_equal(before.positions, after.positions):
        return np.unique(before.positions)
    return before.positions[np.abs(before.bits - after.bits) > exact]


def check_length_leak(harness: AuditHarness) -> Iterator[AuditFinding]:
    """Change the lengths of the documents scored after a cut: the bits of the targets before it must not change.

    An evaluation may use the lengths if it adds bits for them (`ClaimedScore.side_bits`).
    """
    spans, claim = np.array(harness.text.documents(), np.int64), harness.baseline.claim
    sizes = spans[:, 1] - spans[:, 0]
    if len(spans) < 3 or (
        claim.side_bits and claim.side_bits >= MIN_PAID_FRACTION * LongestFirstOrder().side_bits(sizes)
    ):
        return
    ends = [np.flatnonzero(harness.document_of[claim.positions] == i).max(initial=-1) for i in range(len(spans))]
    order = np.argsort(ends, kind="stable")
    worst = max(
        _length_effect(harness, sizes, np.isin(np.arange(len(sizes)), order[:kept]))
        for kept in harness.choice(range(1, len(order) - 1), harness.budget.layouts)
    )
    if worst > harness.budget.shape_tolerance:
        details = "the order changed" if np.isinf(worst) else f"by {worst:.2g} bits per target"
        yield error("document-lengths", details, bits=worst)


def _length_effect(harness: AuditHarness, sizes: Ints, kept: Bools) -> float:
    """Mean change, in bits, of the targets scored before the first target of a document that is not kept.

    Infinite if these targets are scored in another order.
    """
    before = harness.baseline.claim
    first = int(np.append(kept[harness.document_of[before.positions]], False).argmin())
    resized = sizes.copy()
    resized[~kept] = harness.random_lengths(int(sizes[~kept].sum()), int((~kept).sum()))
    after = harness.run(_with_lengths(harness, resized, kept)).claim
    original = _document_positions(before.positions[:first], sizes)
    if not np.array_equal(original, _document_positions(after.positions[:first], resized)):
        return np.inf
    return float(np.abs(before.bits[:first] - after.bits[:first]).mean()) if first else 0.0


def _with_lengths(harness: AuditHarness, sizes: Ints, kept: Bools) -> Ints:
    """The text with random documents of the given sizes in place of those that are not kept."""
    starts = [start for start, _ in harness.text.documents()]
    bos = harness.tokenizer.bos
    pieces = [
        harness.text.tokens[start : start + size] if keep else np.append(bos, harness.random_tokens(size - 1))
        for start, size, keep in zip(starts, sizes.tolist(), kept.tolist(), strict=True)
    ]
    return append_final_bos(np.concatenate(pieces), bos)


def _document_positions(targets: Ints, sizes: Ints) -> Ints:
    """The document of each target, and the position in that document, (2, n)."""
    document = np.searchsorted(np.cumsum(sizes), targets, side="right")
    return np.stack([document, targets - (np.cumsum(sizes) - sizes)[document]])
