"""A sample of passages of a text, on which a tokenizer is trained.

Passages with the smallest fingerprints are kept (bottom-k sampling). The sample thus depends neither on a seed nor on the
order of the documents, can be drawn by several processes, and only the sample is held in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import NamedTuple

from bitgolf.text.document import document_fingerprint

PASSAGE_BYTES = 4096  # length of a sampled passage; pieces are searched within passages
NO_LIMIT = 1 << 64


class Passage(NamedTuple):
    """A part of a document. key: its fingerprint as a number; document: what identifies the document; start: in bytes."""

    key: int
    data: bytes
    document: bytes
    start: int


def passages_below(limit: int, data: bytes, words: bytes, document: bytes) -> Iterator[Passage]:
    """Yield the passages of a document whose key is below `limit`.

    words: its `document_fingerprint`. document: what identifies it; documents with the same one count once.
    """
    whole = len(data) <= PASSAGE_BYTES
    for start in range(0, len(data), PASSAGE_BYTES):
        piece = data[start : start + PASSAGE_BYTES]
        key = int.from_bytes(words if whole else document_fingerprint(piece), "big")
        if key < limit:
            yield Passage(key, piece, document, start)


class PassageSample:
    """The passages with the smallest keys, at least `size` bytes if there are as many."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._heap: list[tuple[int, bytes, bytes, int]] = []  # largest key first
        self._known: set[tuple[bytes, int]] = set()  # documents and starts of the passages in the heap
        self._bytes = 0

    @property
    def limit(self) -> int:
        """Passages with this key or a larger one do not enter the sample."""
        return -self._heap[0][0] if self._heap and self._bytes >= self.size else NO_LIMIT

    def add(self, passage: Passage) -> None:
        """Take a passage into the sample, and remove those that are no longer needed."""
        place = passage.document, passage.start
        if place in self._known:
            return
        self._known.add(place)
        heappush(self._heap, (-passage.key, passage.data, *place))
        self._bytes += len(passage.data)
        while self._bytes - len(self._heap[0][1]) >= self.size:
            _, data, document, start = heappop(self._heap)
            self._known.discard((document, start))
            self._bytes -= len(data)

    def passages(self) -> list[bytes]:
        """Return the sample, ordered by key."""
        return [data for _, data, *_ in sorted(self._heap, reverse=True)]


def sample_passages(documents: Iterable[bytes], size: int) -> list[bytes]:
    """Sample passages of up to `PASSAGE_BYTES` bytes from the documents, at least `size` bytes if there are as many.

    A sample of the sample is the same.
    """
    sample = PassageSample(size)
    for number, data in enumerate(documents):
        for passage in passages_below(sample.limit, data, document_fingerprint(data), b"%d" % number):
            sample.add(passage)
    return sample.passages()
