"""Audit of a tokenizer's byte counts on real text, instead of trusting its metadata.

Each rule corresponds to an error that made published bits-per-byte figures wrong; for example, without a piece for the
space, the challenge's table counts three bytes for it (openai/parameter-golf, issue #897).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from bitgolf.report.findings import DataFinding
from bitgolf.tokens.tokenizer import Tokenizer


def audit_tokenizer(tokenizer: Tokenizer, sample: Iterable[bytes]) -> list[DataFinding]:
    """Return findings about a tokenizer, from its vocabulary and from encoding the documents of `sample`.

    Errors, with which a score is wrong: no-bos, no-byte-fallback, no-space-piece, and does-not-telescope (the byte
    counts of a document's tokens do not sum to its length).
    Warnings: lossy-normalisation (the model's own encoding alters the text; `Tokenizer.encode` is still exact), and
    challenge-table (the challenge's table gives another byte count for these documents).
    """
    totals: Counter[str] = Counter()
    for data in sample:
        totals.update(_measure(tokenizer, data))
    return [*_vocabulary_findings(tokenizer, totals), *_byte_count_findings(totals)]


def _measure(tokenizer: Tokenizer, data: bytes) -> dict[str, int]:
    """Count bytes, lost bytes and unknown characters of one document in the model's own encoding."""
    ids, lost = tokenizer.encode_normalised(data)
    normal = tokenizer.normalised(data)
    counted = int(tokenizer.count_bytes(ids).sum())
    unknown = _unknown_characters(tokenizer, data)
    return {
        "documents": 1,
        "bytes": len(data),
        "normal": len(normal),
        "lost": lost,
        "unknown": unknown,
        "inexact": int(not unknown and (counted != len(normal) or tokenizer.decode_lenient(ids.tolist()) != normal)),
        "challenge": tokenizer.published_byte_count(ids),
    }


def _unknown_characters(tokenizer: Tokenizer, data: bytes) -> int:
    """Return the number of characters of the normalised text that become `<unk>`.

    They are counted one by one: SentencePiece joins adjacent unknown characters into one token.
    """
    if tokenizer.byte_fallback:
        return 0
    known = {*tokenizer.piece_strings, *(" " if tokenizer.has_space else "")}
    return sum(character not in known for character in tokenizer.normalised(data).decode())


def _vocabulary_findings(tokenizer: Tokenizer, totals: Counter[str]) -> Iterator[DataFinding]:
    if tokenizer.bos < 0:
        yield DataFinding("no-bos", "error", "the tokenizer has no BOS token, which starts a document")
    if not tokenizer.byte_fallback:
        yield DataFinding(
            "no-byte-fallback",
            "error",
            "the tokenizer has no byte fallback, and the bytes of <unk> cannot be counted: "
            f"{totals['unknown']:,} characters of the sample's {totals['documents']:,} documents became <unk>",
        )
    if not tokenizer.has_space:
        yield DataFinding(
            "no-space-piece",
            "error",
            "there is no piece for a space: SentencePiece encodes a space as three byte tokens, counted as three bytes",
        )


def _byte_count_findings(totals: Counter[str]) -> Iterator[DataFinding]:
    if totals["inexact"]:
        documents = f"{totals['inexact']:,} of {totals['documents']:,} documents"
        message = f"in {documents} the bytes of the tokens differ from those of the encoded text"
        yield DataFinding("does-not-telescope", "error", message)
    if totals["lost"]:
        raw_bytes = f"{totals['lost']:,} of {totals['bytes']:,} raw bytes"
        message = f"{raw_bytes} are lost or changed by SentencePiece's own encoding"
        yield DataFinding("lossy-normalisation", "warning", message)
    if totals["challenge"] != totals["normal"]:
        counted = f"the challenge's table counts {totals['challenge']:,} bytes"
        message = f"{counted}, but the encoded text has {totals['normal']:,}"
        yield DataFinding("challenge-table", "warning", message)
