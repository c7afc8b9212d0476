"""Check that isolated documents do not affect one another, and that bits do not depend on later documents' lengths."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bitgolf.score.audit.evaluation import Bools, Floats, Ints
from bitgolf.score.audit.findings import AuditFinding, error
from bitgolf.score.audit.harness import AuditHarness, Charges
from bitgolf.score.document_order import LongestFirstOrder
from bitgolf.score.text import append_final_bos

MIN_PAID_FRACTION = 0.5  # minimum side bits, as a share of `encode_lengths`: another code for lengths may be better


def halves(harness: AuditHarness) -> Iterator[Bools]:
    """(documents,): which documents change. Each random half is followed by the other half.

    Of two documents of which one affects the other, a pair of halves shows it with probability 1/2 at least.
    """
    for _ in range(harness.budget.splits):
        half = harness.random.permutation(len(harness.spans)) < len(harness.spans) / 2
        yield half
        yield ~half


def check_isolation(harness: AuditHarness) -> Iterator[AuditFinding]:
    """Replace half of the documents by random tokens of the same number: the bits of the others must not change."""
    if not harness.isolated or len(harness.spans) < 2:
        return
    for half in halves(harness):
        affected = _affected(harness, half)
        if not len(affected):
            continue
        document = int(harness.document_of[affected[0]])
        later = half & (np.arange(len(half)) > document)
        rule = "batch-leak" if (harness.document_of[_affected(harness, later)] == document).any() else "document-leak"
        yield error(rule, f"the bits of {len(affected)} targets changed", targets=len(affected))
        return


def _affected(harness: AuditHarness, replaced: Bools) -> Ints:
    """The targets of other documents whose bits change if these documents are replaced."""
    tokens = np.append(replaced[harness.document_of], False)  # the input of target t is token t
    altered = harness.charges_on(harness.perturb(harness.text.tokens, tokens))
    changed = harness.charges.differ(altered, harness.budget.tolerance)
    return np.flatnonzero(changed & ~replaced[harness.document_of])


def check_length_leak(harness: AuditHarness) -> Iterator[AuditFinding]:
    """Change the lengths of documents: bits of targets that are scored before them must not change.

    If documents are isolated, those of no other document may change, and the order of scoring does not matter.
    An evaluation may use the lengths if it adds bits for them (`ClaimedScore.side_bits`).
    """
    sizes, paid = harness.spans[:, 1] - harness.spans[:, 0], harness.baseline.claim.side_bits
    if np.isnan(
        harness.charges.bits
    ).any():  # which targets are scored may depend on lengths; `check_coverage` reports it
        return
    if len(sizes) < 3 or (paid and paid >= MIN_PAID_FRACTION * LongestFirstOrder().side_bits(sizes)):
        return
    kept = ~np.array(list(halves(harness))) if harness.isolated else _kept_documents(harness)
    worst = max((_length_effect(harness, sizes, keep) for keep in kept), default=0.0)
    if worst > harness.budget.shape_tolerance:
        details = "the order changed" if np.isinf(worst) else f"by {worst:.2g} bits per target of a document"
        yield error("document-lengths", details, bits=worst)


def _kept_documents(harness: AuditHarness) -> Bools:
    """(questions, documents): the documents that are scored up to a document, which is drawn."""
    order = harness.document_of[harness.charges.order]
    scored, ends = np.unique(order[::-1], return_index=True)
    ranked = scored[np.argsort(-ends, kind="stable")]  # by the last target of each document
    counts = np.arange(1, len(ranked) - 1)  # at least two others must share a new length
    drawn = harness.one_of_each(np.array_split(counts, min(harness.budget.questions, max(len(counts), 1))))
    return np.array([np.isin(np.arange(len(harness.spans)), ranked[:count]) for count in drawn], bool)


def _length_effect(harness: AuditHarness, sizes: Ints, kept: Bools) -> float:
    """The largest mean change of a document's targets, in bits, if the documents that are not kept get other lengths.

    Of the targets that are scored before the first one of those documents; of all kept ones if documents are isolated.
    Infinite if these targets are scored in another order.
    """
    resized = sizes.copy()
    resized[~kept] = harness.random_lengths(int(sizes[~kept].sum()), int((~kept).sum()))
    altered = harness.charges_on(_with_lengths(harness, resized, kept))
    if harness.isolated:
        return _largest_mean(np.abs(_of(kept, sizes, harness.charges) - _of(kept, resized, altered)), sizes[kept])
    order = harness.charges.order
    first = int(np.append(kept[harness.document_of[order]], False).argmin())
    before, after = _document_positions(order[:first], sizes), _document_positions(altered.order[:first], resized)
    if not np.array_equal(before, after):
        return np.inf
    change = np.abs(harness.charges.bits[order[:first]] - altered.bits[altered.order[:first]])
    by_document = np.argsort(before[0], kind="stable")
    return _largest_mean(change[by_document], np.bincount(before[0]))


def _of(kept: Bools, sizes: Ints, charges: Charges) -> Floats:
    """The bits of the kept documents' targets; those that are not scored have none."""
    return np.nan_to_num(charges.bits[np.repeat(kept, sizes)])


def _largest_mean(change: Floats, sizes: Ints) -> float:
    """The largest mean of the sections of these sizes."""
    sections = np.split(change, np.cumsum(sizes)[:-1]) if len(sizes) else []
    return max((float(section.mean()) for section in sections if len(section)), default=0.0)


def _with_lengths(harness: AuditHarness, sizes: Ints, kept: Bools) -> Ints:
    """The text with random documents of the given sizes in place of those that are not kept."""
    pieces = [
        harness.text.tokens[start : start + size] if keep else np.append(harness.bos, harness.random_tokens(size - 1))
        for start, size, keep in zip(harness.spans[:, 0], sizes.tolist(), kept.tolist(), strict=True)
    ]
    return append_final_bos(np.concatenate(pieces), harness.bos)


def _document_positions(targets: Ints, sizes: Ints) -> Ints:
    """The document of each target, and the position in that document, (2, n)."""
    document = np.searchsorted(np.cumsum(sizes), targets, side="right")
    return np.stack([document, targets - (np.cumsum(sizes) - sizes)[document]])
