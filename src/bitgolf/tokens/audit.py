"""Audit of a tokenizer's byte counts on real text, instead of trusting its metadata.

Each rule corresponds to an error that made published bits-per-byte figures wrong; for example, without a piece for the
space, the challenge's table counts three bytes for it (openai/parameter-golf, issue #897).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from bitgolf.errors import BitgolfError
from bitgolf.report.findings import DataFinding
from bitgolf.tokens.tokenizer import Tokenizer

FORCEABLE = ("no-space-piece", "does-not-telescope")
"""Rules whose violation makes the model's own encoding wrong. `Tokenizer.encode` is exact nevertheless."""
_HINTS = {
    "no-bos": "use a tokenizer with a special token that starts a document, such as <s> or <|endoftext|>",
    "no-byte-fallback": "use a tokenizer with a token for each of the 256 bytes",
}


def audit_tokenizer(tokenizer: Tokenizer, sample: Iterable[bytes]) -> list[DataFinding]:
    """Return the errors with which a tokenizer cannot be used, or its scores are wrong.

    From its vocabulary: no-bos, no-byte-fallback, no-space-piece. From encoding the documents of `sample`:
    does-not-telescope (the byte counts of a document's tokens do not sum to its length).
    """
    totals = _measure_all(tokenizer, sample)
    return [*_vocabulary_findings(tokenizer, totals), *_byte_count_findings(totals)]


def audit_published_encoding(tokenizer: Tokenizer, sample: Iterable[bytes]) -> list[DataFinding]:
    """Return warnings about the model's own encoding and the published byte counts, as in the challenge's shards.

    lossy-normalisation: the encoding alters the text of `sample`. challenge-table: `Tokenizer.published_bytes` is the
    number of bytes neither of the text nor of what is encoded. `Tokenizer.encode` and `count_bytes` have no such fault.
    """
    return list(_published_findings(_measure_all(tokenizer, sample)))


def refuse_errors(findings: Iterable[DataFinding], *, force: bool, where: str, how_to_force: str) -> list[DataFinding]:
    """Return the findings. Raises `BitgolfError` with all errors among them.

    force: errors of the rules `FORCEABLE` become warnings instead. how_to_force: what the user sets for that.
    """
    found = [
        DataFinding(rule, "warning", f"{message} (forced)")
        if force and severity == "error" and rule in FORCEABLE
        else DataFinding(rule, severity, message)
        for rule, severity, message in findings
    ]
    if errors := [finding for finding in found if finding.severity == "error"]:
        needed = [_HINTS[finding.rule] for finding in errors if finding.rule in _HINTS]
        hint = "; ".join(needed) or f"use another tokenizer, or this one nevertheless with {how_to_force}"
        raise BitgolfError("; ".join(finding.message for finding in errors), where=where, hint=hint)
    return found


def _measure_all(tokenizer: Tokenizer, sample: Iterable[bytes]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for data in sample:
        totals.update(_measure(tokenizer, data))
    return totals


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
        "published": int(tokenizer.published_bytes(data).sum()),
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


def _published_findings(totals: Counter[str]) -> Iterator[DataFinding]:
    if totals["lost"]:
        raw_bytes = f"{totals['lost']:,} of {totals['bytes']:,} raw bytes"
        message = f"{raw_bytes} are lost or changed by the tokenizer's own encoding"
        yield DataFinding("lossy-normalisation", "warning", message)
    if totals["published"] not in (totals["normal"], totals["bytes"]):
        counted = f"the challenge's table counts {totals['published']:,} bytes"
        message = f"{counted}, but the text has {totals['bytes']:,}, and {totals['normal']:,} as it is encoded"
        yield DataFinding("challenge-table", "warning", message)
