"""Check that bits are divided by the bytes of the raw text. Crafted documents show which bytes are miscounted."""

from __future__ import annotations

from collections.abc import Iterator

from bitgolf.score.audit.findings import AuditFinding, error, warning
from bitgolf.score.audit.harness import AuditHarness
from bitgolf.score.audit.runner import EvaluationRun

WORDS = 8
MIN_PER_SPACE = 0.1  # excess bytes per space that are called an error in counting spaces
OUT_OF_VOCABULARY = "𐎠𐎡𐎢𐎣𐎤".encode() * 2  # Old Persian cuneiform, which no vocabulary has
UNSPACED, SPACED, TWO_SPACES = b"word" * WORDS, b" ".join([b"word"] * WORDS), b"  ".join([b"word"] * WORDS)
CUNEIFORM = "𐎠".encode()
SPACED_CUNEIFORM = b" ".join([CUNEIFORM] * WORDS)  # spaces before characters that are encoded as bytes


def check_denominator(harness: AuditHarness, claimed: EvaluationRun) -> Iterator[AuditFinding]:
    """Compare the reported bytes with the raw bytes, for crafted documents and for the text.

    An error in documents with spaces, or with characters outside the vocabulary, but in no other, has a name. Whether
    a space is encoded as byte tokens depends on what follows, so there are three documents with spaces.
    """
    plain, unknown = (_excess_bytes(harness, document) for document in (UNSPACED, OUT_OF_VOCABULARY))
    single, double, strange = (_excess_bytes(harness, d) for d in (SPACED, TWO_SPACES, SPACED_CUNEIFORM))
    strange -= unknown * WORDS * len(CUNEIFORM) / len(OUT_OF_VOCABULARY)
    named = list[AuditFinding]()
    if plain == 0 and unknown > 0:
        details = f"{unknown:g} bytes too many for {len(OUT_OF_VOCABULARY)} byte tokens"
        named.append(error("bytes-fallback-x3", details, over=unknown))
    over, spaces = max((single, WORDS - 1), (double, 2 * WORDS - 2), (strange, WORDS - 1))
    if plain == 0 and over > MIN_PER_SPACE * spaces:
        alone = max(
            _tokens(harness, TWO_SPACES) - _tokens(harness, SPACED),
            _tokens(harness, SPACED_CUNEIFORM) - _tokens(harness, CUNEIFORM * WORDS),
        ) >= 3 * (WORDS - 1)
        rule = "no-space-piece" if alone and not 0 < single <= WORDS - 1 else "bytes-space-twice"
        named.append(error(rule, f"{over:g} bytes too many for {spaces} spaces", over=over))
    yield from named
    whole = len(claimed.claim.positions) == harness.text.num_targets == len(harness.charges.order)
    over = claimed.claim.bytes - harness.text.bytes
    details = f"{claimed.claim.bytes:,} reported, {harness.text.bytes:,} raw"
    if whole and over > 0 and not named:
        yield error("bytes-over", details, over=over)
    elif whole and over < 0:
        yield warning("bytes-under", details, over=over)


def _excess_bytes(harness: AuditHarness, document: bytes) -> float:
    """Reported minus raw bytes per copy of a document, for a text of copies about as long as the audited one."""
    copies = max(1, harness.text.bytes // len(document))
    run = harness.run(harness.encode([document] * copies).tokens, raw_bytes=copies * len(document))
    return run.claim.bytes / copies - len(document)


def _tokens(harness: AuditHarness, document: bytes) -> int:
    return harness.encode([document]).num_targets
