"""What a tokenizer does to the byte count of a score: an audit over real text, in place of trust in its metadata.

Every rule here stands for a bits-per-byte claim that was wrong once (see the byte counting section of the challenge's threads).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from bitgolf.report.findings import DataFinding
from bitgolf.tokens.tokenizer import Tokenizer


def audit_tokenizer(tokenizer: Tokenizer, sample: Iterable[bytes]) -> list[DataFinding]:
    """The findings about a tokenizer: from its pieces, and from what it does to the documents of `sample`.

    no-bos, no-byte-fallback, no-space-piece, does-not-telescope: a score with it is wrong (error).
    lossy-normalisation: its own encoding is that of an altered text (warning); `Tokenizer.encode` is exact all the same.
    challenge-table: the challenge's table counts these documents differently from their bytes (warning).
    """
    totals: Counter[str] = Counter()
    for data in sample:
        totals.update(_measure(tokenizer, data))
    return [*_vocabulary_findings(tokenizer, totals), *_byte_count_findings(totals)]


def _measure(tokenizer: Tokenizer, data: bytes) -> dict[str, int]:
    """Counts over one document, encoded as others do it."""
    ids, lost = tokenizer.encode_normalised(data)
    normal = tokenizer.normalised(data)
    told = int(tokenizer.count_bytes(ids).sum())
    unknown = _unknown_characters(tokenizer, data)
    return {
        "documents": 1,
        "bytes": len(data),
        "normal": len(normal),
        "lost": lost,
        "unknown": unknown,
        "astray": int(not unknown and (told != len(normal) or tokenizer.decode_lenient(ids.tolist()) != normal)),
        "challenge": tokenizer.published_byte_count(ids),
    }


def _unknown_characters(tokenizer: Tokenizer, data: bytes) -> int:
    """Characters of the normalised text that become `<unk>`. SentencePieceTokenizer joins neighbours into one token; we count each."""
    if tokenizer.byte_fallback:
        return 0
    known = {*tokenizer.piece_strings, *(" " if tokenizer.has_space else "")}
    return sum(character not in known for character in tokenizer.normalised(data).decode())


def _vocabulary_findings(tokenizer: Tokenizer, totals: Counter[str]) -> Iterator[DataFinding]:
    if tokenizer.bos < 0:
        yield DataFinding("no-bos", "error", "the model has no token that starts a document")
    if not tokenizer.byte_fallback:
        yield DataFinding(
            "no-byte-fallback",
            "error",
            "<unk> can occur, and no table knows its bytes: "
            f"{totals['unknown']:,} characters of the sample's {totals['documents']:,} documents became <unk>",
        )
    if not tokenizer.has_space:
        yield DataFinding(
            "no-space-piece",
            "error",
            "there is no piece for a space: SentencePieceTokenizer spends three byte tokens on one, and a table counts three bytes",
        )


def _byte_count_findings(totals: Counter[str]) -> Iterator[DataFinding]:
    if totals["astray"]:
        message = f"in {totals['astray']:,} of {totals['documents']:,} documents the tokens' bytes are not those of the text encoded"
        yield DataFinding("does-not-telescope", "error", message)
    if totals["lost"]:
        message = f"{totals['lost']:,} of {totals['bytes']:,} raw bytes are lost or changed by SentencePieceTokenizer's own encoding"
        yield DataFinding("lossy-normalisation", "warning", message)
    if totals["challenge"] != totals["normal"]:
        message = f"the challenge's table counts {totals['challenge']:,} bytes where the text encoded has {totals['normal']:,}"
        yield DataFinding("challenge-table", "warning", message)
