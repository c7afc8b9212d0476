"""The guard between training and validation: documents are compared by fingerprint, and one in both stops everything.

A third of one family of the challenge's submissions had trained on its validation documents, by a script's default
(issue #2127); so nothing here is optional. 8-byte fingerprints of 8 million documents against 50 thousand meet by chance
once in 40 million such comparisons.
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
from bitgolf.text.documents import document_fingerprint

Fingerprints = npt.NDArray[np.uint64]


def document_fingerprints(documents: Iterable[bytes]) -> Fingerprints:
    """The fingerprint of each document, uint64 [documents]."""
    return _numbers(b"".join(map(document_fingerprint, documents)))


def stream_fingerprints(stream: TokenStream, bos: int) -> Fingerprints:
    """The same for documents of which only the tokens are left, cut at each BOS: comparable within one tokenizer.

    What precedes the stream's first BOS is the rest of a document that cannot be compared, and is left out.
    """
    starts = stream.document_starts(bos)
    ends = np.append(starts[1:], len(stream))
    hashes = [_token_hash(stream.window(a, b - a)) for a, b in zip(starts.tolist(), ends.tolist(), strict=False)]
    return _numbers(b"".join(hashes))


def _token_hash(ids: npt.NDArray[np.int64]) -> bytes:
    return hashlib.sha256(ids.astype("<u2").tobytes()).digest()[:8]


def _numbers(hashes: bytes) -> Fingerprints:
    return np.frombuffer(hashes, "<u8").astype(np.uint64)


def check_overlap(train: Fingerprints, validation: Fingerprints, *, where: str = "data") -> None:
    """Raise `BitgolfError` where a document is in both: how many, and where in each split the first are."""
    leaked = np.flatnonzero(np.isin(train, validation))
    if not len(leaked):
        return
    first = [f"{i} (validation document {int(np.flatnonzero(validation == train[i])[0])})" for i in leaked[:3].tolist()]
    distinct = len(np.unique(train[leaked]))
    raise BitgolfError(
        f"{distinct:,} of {len(np.unique(validation)):,} validation documents are among the training documents: "
        f"training document {', '.join(first)}{', ...' if len(leaked) > 3 else ''}",
        where=where,
        hint="split the documents by their content (bitgolf.text.documents.train_validation_split), or leave these out of training",
    )


def write_fingerprints(path: Path, values: Fingerprints) -> None:
    write_bytes(path, values.astype("<u8").tobytes())


def read_fingerprints(path: Path) -> Fingerprints:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BitgolfError(f"the fingerprints cannot be read ({error.strerror})", where=str(path)) from error
    if len(data) % 8:
        raise CorruptFileError(f"{len(data)} bytes are not fingerprints of 8 bytes each", where=str(path))
    return _numbers(data)
