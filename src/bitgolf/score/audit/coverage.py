"""Check that every target is scored once, and that bits are divided by the bytes of the raw text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bitgolf.score.audit.evaluation import Ints
from bitgolf.score.audit.findings import AuditFinding, error, warning
from bitgolf.score.audit.harness import AuditHarness, EvaluationRun

UNSPACED, SPACES = b"word" * 8, 8
SPACED = b"word " * SPACES + b"word"
OUT_OF_VOCABULARY = "𐎠𐎡𐎢𐎣𐎤".encode() * 2  # Old Persian cuneiform, which no vocabulary has


def check_coverage(harness: AuditHarness, claimed: EvaluationRun) -> Iterator[AuditFinding]:
    """Every target must be scored exactly once."""
    times = np.bincount(claimed.claim.positions, minlength=harness.text.num_targets)
    missing, doubled = np.flatnonzero(times == 0), np.flatnonzero(times > 1)
    documents = harness.text.documents()
    if len(missing):
        lost = sum(not times[start:stop].any() for start, stop in documents)
        rule = "partial-validation" if lost else "dropped-tail" if _is_tail(missing, harness) else "skipped-targets"
        yield error(rule, f"{len(missing)} of {harness.text.num_targets} targets", targets=len(missing), documents=lost)
    if len(doubled):
        rule = "doubled-tail" if _is_tail(doubled, harness) else "charged-twice"
        yield error(rule, f"{len(doubled)} of {harness.text.num_targets} targets", targets=len(doubled))


def _is_tail(targets: Ints, harness: AuditHarness) -> bool:
    """Whether these targets are the last ones of the text."""
    return len(targets) == harness.text.num_targets - targets[0]


def check_tokenizer(harness: AuditHarness, claimed: EvaluationRun) -> Iterator[AuditFinding]:
    """The tokenizer must be lossless; a document that it does not restore must cost at least 8 bits per raw byte."""
    paid = np.bincount(claimed.claim.positions, claimed.claim.bits, minlength=harness.text.num_targets)
    lost = free = 0
    for document, (start, stop) in zip(harness.documents, harness.text.documents(), strict=True):
        if harness.decode(harness.text.tokens[start + 1 : stop]) != document:
            lost += 1
            free += float(paid[start:stop].sum()) < 8 * len(document)
    if free:
        yield error("lossy-tokenizer", f"{lost} of {len(harness.documents)} documents", documents=lost, uncharged=free)


def check_denominator(harness: AuditHarness, claimed: EvaluationRun) -> Iterator[AuditFinding]:
    """Compare the reported bytes with the raw bytes, for test documents and for the text.

    The test documents have no spaces, 8 spaces, or characters outside the vocabulary.
    """
    unspaced, spaced, unknown = (_excess_bytes(harness, document) for document in (UNSPACED, SPACED, OUT_OF_VOCABULARY))
    rules: dict[float, str] = {SPACES: "bytes-space-twice", 2 * SPACES: "no-space-piece"}
    if rule := rules.get(spaced - unspaced):
        yield error(rule, f"{spaced:g} bytes too many for {SPACES} spaces", over=spaced)
    if unknown - unspaced == 2 * len(OUT_OF_VOCABULARY):
        details = f"{unknown:g} bytes too many for {len(OUT_OF_VOCABULARY)} byte tokens"
        yield error("bytes-fallback-x3", details, over=unknown)
    whole = len(claimed.claim.positions) == harness.text.num_targets == len(np.unique(claimed.claim.positions))
    if whole and (over := claimed.claim.bytes - harness.text.bytes):
        details = f"{claimed.claim.bytes:,} reported, {harness.text.bytes:,} raw"
        yield error("bytes-over", details, over=over) if over > 0 else warning("bytes-under", details, over=over)


def _excess_bytes(harness: AuditHarness, document: bytes) -> float:
    """Reported minus raw bytes per copy of a document, for a text of copies about as long as the audited one."""
    copies = max(1, harness.text.bytes // len(document))
    run = harness.run(harness.encode([document] * copies).tokens, raw_bytes=copies * len(document))
    return run.claim.bytes / copies - len(document)
