"""Which targets were charged, and by how many bytes the bits were divided."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bitgolf.score.audit.evaluation import Ints
from bitgolf.score.audit.findings import AuditFinding, error, warning
from bitgolf.score.audit.harness import AuditHarness, EvaluationRun

UNSPACED, SPACES = b"word" * 8, 8
SPACED = b"word " * SPACES + b"word"
OUT_OF_VOCABULARY = "𐎠𐎡𐎢𐎣𐎤".encode() * 2  # Old Persian cuneiform: in no vocabulary


def check_coverage(exam: AuditHarness, claimed: EvaluationRun) -> Iterator[AuditFinding]:
    """Every target once."""
    times = np.bincount(claimed.claim.positions, minlength=exam.text.num_targets)
    missing, doubled = np.flatnonzero(times == 0), np.flatnonzero(times > 1)
    documents = exam.text.documents()
    if len(missing):
        lost = sum(not times[start:stop].any() for start, stop in documents)
        rule = "partial-validation" if lost else "dropped-tail" if _is_tail(missing, exam) else "skipped-targets"
        yield error(rule, f"{len(missing)} of {exam.text.num_targets} targets", targets=len(missing), documents=lost)
    if len(doubled):
        rule = "doubled-tail" if _is_tail(doubled, exam) else "charged-twice"
        yield error(rule, f"{len(doubled)} of {exam.text.num_targets} targets", targets=len(doubled))


def _is_tail(targets: Ints, exam: AuditHarness) -> bool:
    return len(targets) == exam.text.num_targets - targets[0]


def check_tokenizer(exam: AuditHarness, claimed: EvaluationRun) -> Iterator[AuditFinding]:
    """Exactly invertible, or charged: a document that does not come back costs at least 8 bits for each raw byte."""
    paid = np.bincount(claimed.claim.positions, claimed.claim.bits, minlength=exam.text.num_targets)
    lost = free = 0
    for document, (start, stop) in zip(exam.documents, exam.text.documents(), strict=True):
        if exam.decode(exam.text.tokens[start + 1 : stop]) != document:
            lost += 1
            free += float(paid[start:stop].sum()) < 8 * len(document)
    if free:
        yield error("lossy-tokenizer", f"{lost} of {len(exam.documents)} documents", documents=lost, uncharged=free)


def check_denominator(exam: AuditHarness, claimed: EvaluationRun) -> Iterator[AuditFinding]:
    """The bytes claimed for crafted documents, and for the text, against the raw ones."""
    bare, spaced, foreign = (_excess_bytes(exam, document) for document in (UNSPACED, SPACED, OUT_OF_VOCABULARY))
    rules: dict[float, str] = {SPACES: "bytes-space-twice", 2 * SPACES: "no-space-piece"}
    if rule := rules.get(spaced - bare):
        yield error(rule, f"{spaced:g} bytes too many for {SPACES} spaces", over=spaced)
    if foreign - bare == 2 * len(OUT_OF_VOCABULARY):
        yield error(
            "bytes-fallback-x3", f"{foreign:g} bytes too many for {len(OUT_OF_VOCABULARY)} byte tokens", over=foreign
        )
    whole = len(claimed.claim.positions) == exam.text.num_targets == len(np.unique(claimed.claim.positions))
    if whole and (over := claimed.claim.bytes - exam.text.bytes):
        seen = f"{claimed.claim.bytes:,} for {exam.text.bytes:,}"
        yield error("bytes-over", seen, over=over) if over > 0 else warning("bytes-under", seen, over=over)


def _excess_bytes(exam: AuditHarness, document: bytes) -> float:
    """Bytes that are claimed too many for a document, on the mean over a text of it alone, as long as the one examined."""
    copies = max(1, exam.text.bytes // len(document))
    run = exam.run(exam.encode([document] * copies).tokens, raw_bytes=copies * len(document))
    return run.claim.bytes / copies - len(document)
