"""Check that tokens restore the text, and what it would cost to restore what they lose."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

from bitgolf.score.audit.findings import AuditFinding, error
from bitgolf.score.audit.harness import AuditHarness

CHUNK = 1 << 13  # bytes that are compared at a time; the window of deflate has 32 KiB


def check_losslessness(harness: AuditHarness) -> Iterator[AuditFinding]:
    """The tokens must restore each document, unless its score is at least 8 bits for each of its bytes.

    A new tokenizer decodes, so that it cannot return what it has been shown. Two documents must not have the same
    tokens: each one is also encoded with a change of a letter's case or of its spaces.
    """
    encoded = [harness.text.tokens[start + 1 : stop] for start, stop in harness.spans]
    decoded = harness.runner.decode(encoded)
    variants = [_variants(harness, document) for document in harness.documents]
    others = iter(harness.runner.encode([variant for own in variants for variant in own]))
    lost, free, equal, bits = 0, 0, 0, 0
    for i, (document, restored) in enumerate(zip(harness.documents, decoded, strict=True)):
        equals = [np.array_equal(encoded[i], next(others)) for _ in variants[i]]  # all of them are taken
        same = any(equals)
        if restored == document and not same:
            continue
        lost, equal = lost + 1, equal + (same and restored == document)
        bits += max(1, correction_bits(document, restored))
        free += not float(np.nansum(harness.charges.bits[slice(*harness.spans[i])])) >= 8 * len(document)
    if free:
        worth = bits / harness.text.bytes
        details = f"{lost} of {len(decoded)} documents; restoring them costs about {bits:,} bits, {worth:.2g} bpb"
        details += f"; {equal} share their tokens with another text" if equal else ""
        yield error("lossy-tokenizer", details, documents=lost, uncharged=free, bits=bits, bpb=worth)


def correction_bits(document: bytes, restored: bytes) -> int:
    """Bits of a correction that makes the document of what was restored: deflate, with the latter as its dictionary.

    What deflate needs for two equal texts is subtracted.
    """
    total = 0
    for start in range(0, max(len(document), 1), CHUNK):
        near = restored[max(0, start - CHUNK) : start + 2 * CHUNK]
        part, same = document[start : start + CHUNK], restored[start : start + CHUNK]
        total += max(0, 8 * (_deflated(part, near) - _deflated(same, near)))
    return total if total or document == restored else 1


def _deflated(data: bytes, dictionary: bytes) -> int:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=dictionary) if dictionary else zlib.compressobj(9)
    return len(coder.compress(data) + coder.flush())


def _variants(harness: AuditHarness, document: bytes) -> list[bytes]:
    """The document with another case of a letter, with a space doubled, and with one added at its end."""
    found = [document + b" "]
    if letters := [i for i, byte in enumerate(document) if chr(byte).isascii() and chr(byte).isalpha()]:
        i = letters[harness.random.integers(len(letters))]
        found.append(document[:i] + document[i : i + 1].swapcase() + document[i + 1 :])
    if spaces := [i for i, byte in enumerate(document) if byte == 32]:
        i = spaces[harness.random.integers(len(spaces))]
        found.append(document[:i] + b" " + document[i:])
    return found
