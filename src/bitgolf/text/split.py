"""The split of documents into training and validation.

The split of a document depends on its words, so documents that differ only in white space are always in the same one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from bitgolf.errors import BitgolfError, UsageError
from bitgolf.text.document import Document, content_fingerprint, document_fingerprint
from bitgolf.text.read_report import ReadReport

Fingerprints = npt.NDArray[np.uint64]
_BLOCK = 1 << 20  # fingerprints per step of a search


def fingerprint_numbers(hashes: Iterable[bytes]) -> Fingerprints:
    """Return 8-byte fingerprints as numbers, uint64 (documents,)."""
    return np.frombuffer(b"".join(hashes), ">u8").astype(np.uint64)


def train_validation_split(
    documents: Iterable[Document], fraction: float = 0.05, report: ReadReport | None = None
) -> tuple[list[Document], list[Document]]:
    """Return (training, validation): the documents whose bytes are distinct, each list in the given order.

    A document belongs to validation if its fingerprint is below `validation_limit`. Documents whose bytes equal those
    of an earlier one are dropped, and counted in `report`. All documents are held in memory; `data.prepare_text` splits
    a text of any size in the same way.
    Raises `BitgolfError` for fewer than two distinct fingerprints, `UsageError` if `fraction` is outside (0, 1).
    """
    check_fraction(fraction)
    listed = list(documents)
    words = fingerprint_numbers(document_fingerprint(document.data) for document in listed)
    kept = first_of_each(words, fingerprint_numbers(content_fingerprint(document.data) for document in listed))
    limit = validation_limit(words, fraction, [document.name for document in listed[:3]])
    if report:
        report.duplicates += int((~kept).sum())
    sides: tuple[list[Document], list[Document]] = [], []
    for document, held_out, keep in zip(listed, (words < limit).tolist(), kept.tolist(), strict=True):
        if keep:
            sides[held_out].append(document)
    return sides


def check_fraction(fraction: float) -> None:
    """Raise `UsageError` if the share of held-out documents is outside (0, 1)."""
    if not 0 < fraction < 1:
        raise UsageError(f"the held-out fraction must be between 0 and 1, both excluded, got {fraction}")


def nominal_limit(fraction: float) -> int:
    """Return the `validation_limit` of a text with many documents."""
    return round(fraction * 2**64)


def validation_limit(words: Fingerprints, fraction: float, names: Sequence[str] = ()) -> int:
    """Return the limit below which fingerprints belong to validation: `fraction` of the range of uint64.

    If a split would be empty, as may happen with few documents, the limit is moved to the closest fingerprint such that
    each split has one. words: fingerprints of the documents, uint64 (documents,). names: of the first documents, for
    messages. Raises `BitgolfError` for fewer than two distinct fingerprints.
    """
    smallest, largest, nominal = int(words.min(initial=2**64 - 1)), int(words.max(initial=0)), nominal_limit(fraction)
    if smallest >= largest:
        raise BitgolfError(
            f"{len(words[:1])} distinct documents cannot be split into training and validation",
            where=", ".join(dict.fromkeys(names)),
            hint="name more files, or a .jsonl file with one document per line",
        )
    if smallest < nominal <= largest:
        return nominal
    return largest if largest < nominal else int(words[words > smallest].min())


def first_of_each(words: Fingerprints, contents: Fingerprints) -> npt.NDArray[np.bool_]:
    """Return which documents are the first with their bytes, bool (documents,).

    Bytes are compared by two fingerprints, of the words and of the bytes, together 128 bits. Memory: 8 bytes per
    document, and more only for documents whose words occur several times.
    """
    kept = np.ones(len(words), np.bool_)
    ordered = np.sort(words)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if len(repeated):
        blocks = (words[i : i + _BLOCK] for i in range(0, len(words), _BLOCK))
        places = np.flatnonzero(np.concatenate([np.isin(block, repeated) for block in blocks]))
        pairs = np.stack([words[places], contents[places]], axis=1)
        _, first = np.unique(pairs, axis=0, return_index=True)
        kept[places] = False
        kept[places[first]] = True
    return kept
