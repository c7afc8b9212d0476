"""Check for overlap of training and validation: documents are compared by fingerprint, and a match is an error.

The check cannot be disabled: a third of one family of the challenge's submissions had trained on their validation
documents, because of a script's default (openai/parameter-golf, issue #2127). For 8 million documents against 50
thousand, the chance that two different documents have the same 8-byte fingerprint is 1 in 40 million.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitgolf.data.shards import TokenStream
from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.files import write_bytes
from bitgolf.report.findings import DataFinding
from bitgolf.text.documents import document_fingerprint

Fingerprints = npt.NDArray[np.uint64]


def document_fingerprints(documents: Iterable[bytes]) -> Fingerprints:
    """Return the fingerprint of each document, uint64 (documents,)."""
    return _numbers(b"".join(map(document_fingerprint, documents)))


def stream_fingerprints(stream: TokenStream, bos: int) -> Fingerprints:
    """Return the fingerprint of each document of a token stream, uint64 (documents,), computed from its tokens.

    Documents are split at each BOS. Fingerprints are comparable only for the same tokenizer. Tokens before the first
    BOS, the end of a document that started elsewhere, are left out.
    """
    starts = stream.document_starts(bos)
    ends = np.append(starts[1:], len(stream))
    hashes = [_token_hash(stream.window(a, b - a)) for a, b in zip(starts.tolist(), ends.tolist(), strict=False)]
    return _numbers(b"".join(hashes))


def _token_hash(ids: npt.NDArray[np.int64]) -> bytes:
    return hashlib.sha256(ids.astype("<u2").tobytes()).digest()[:8]


def _numbers(hashes: bytes) -> Fingerprints:
    return np.frombuffer(hashes, "<u8").astype(np.uint64)


PUBLISHED_OVERLAP = 0.01
"""Share of the validation documents that a published set may have among its training documents.

Web text repeats pages, and published sets are split by position, so some documents have the same tokens in both splits.
Training on the validation documents, the fault that the check looks for, gives 80 to 100 %.
"""


def check_overlap(
    train: Fingerprints, validation: Fingerprints, *, where: str = "data", tolerated: float = 0.0
) -> DataFinding | None:
    """Raise `BitgolfError` if more than the share `tolerated` of the validation documents is in both splits.

    The message has the number of such documents, and the positions of the first three. Returns a warning if there are
    some that are tolerated, None if there are none.
    """
    leaked = np.flatnonzero(np.isin(train, validation))
    if not len(leaked):
        return None
    first = [f"{i} (validation document {int(np.flatnonzero(validation == train[i])[0])})" for i in leaked[:3].tolist()]
    distinct = len(np.unique(train[leaked]))
    count = len(np.unique(validation))
    message = (
        f"{distinct:,} of {count:,} validation documents are among the training documents: "
        f"training document {', '.join(first)}{', ...' if len(leaked) > 3 else ''}"
    )
    if distinct <= tolerated * count:
        allowed = (
            f"up to {tolerated:.0%} is tolerated, as web text repeats pages and published sets are split by position"
        )
        return DataFinding("overlap", "warning", f"{message} ({allowed})")
    hint = "make the shards from the text with `bitgolf data make`, or remove these documents from training"
    raise BitgolfError(message, where=where, hint=hint)


def write_fingerprints(path: Path, values: Fingerprints) -> None:
    write_bytes(path, values.astype("<u8").tobytes())


def read_fingerprints(path: Path) -> Fingerprints:
    """Return the fingerprints in a file, uint64 (documents,). Raises `BitgolfError` if it is unreadable or corrupt."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BitgolfError(f"the fingerprints cannot be read ({error.strerror})", where=str(path)) from error
    if len(data) % 8:
        raise CorruptFileError(f"the size must be a multiple of 8 bytes, got {len(data)} bytes", where=str(path))
    return _numbers(data)
