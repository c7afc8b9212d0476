"""The split of documents into training and validation.

The split of a document depends on its words, so documents that differ only in white space are always in the same one.
"""

from __future__ import annotations

from collections.abc import Iterable

from bitgolf.errors import BitgolfError, UsageError
from bitgolf.text.document import Document, document_fingerprint
from bitgolf.text.read_report import ReadReport


def train_validation_split(
    documents: Iterable[Document], fraction: float = 0.05, report: ReadReport | None = None
) -> tuple[list[Document], list[Document]]:
    """Return (training, validation): the documents whose bytes are distinct, each list in the given order.

    A document belongs to validation if its fingerprint, as a number in [0, 1), is below `fraction`. If a split would be
    empty, as may happen with few documents, the documents with the closest fingerprint are moved into it. Documents
    whose bytes equal those of an earlier one are dropped, and counted in `report`.
    Raises `BitgolfError` for fewer than two distinct fingerprints, `UsageError` if `fraction` is outside (0, 1).
    """
    if not 0 < fraction < 1:
        raise UsageError(f"the held-out fraction must be between 0 and 1, both excluded, got {fraction}")
    distinct: dict[bytes, tuple[Document, bytes]] = {}
    for document in documents:
        if document.data not in distinct:
            distinct[document.data] = document, document_fingerprint(document.data)
        elif report:
            report.duplicates += 1
    keys = {key for _, key in distinct.values()}
    if len(keys) < 2:
        raise BitgolfError(
            f"{len(keys)} distinct documents cannot be split into training and validation",
            where=", ".join(document.name for document, _ in distinct.values()),
            hint="name more files, or a .jsonl file with one document per line",
        )
    count = sum(_unit_interval(key) < fraction for key in keys)
    validation = set(sorted(keys)[: min(max(count, 1), len(keys) - 1)])
    training = [document for document, key in distinct.values() if key not in validation]
    return training, [document for document, key in distinct.values() if key in validation]


def _unit_interval(key: bytes) -> float:
    return int.from_bytes(key, "big") / 2.0**64
