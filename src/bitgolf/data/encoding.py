"""Encoding of documents to the tokens of shards, in batches that several processes share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np

from bitgolf.data.shards import Tokens
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.tokenizer import Ids, Tokenizer


class SplitCounts(msgspec.Struct):
    """Counts of the documents of a split that were encoded, as in `SplitManifest`."""

    documents: int = 0
    tokens: int = 0
    raw_bytes: int = 0
    encoded_bytes: int = 0
    lost_bytes: int = 0

    def add(self, other: SplitCounts) -> None:
        """Add the counts of further documents."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class EncodedSplit(NamedTuple):
    """The tokens of some documents of a split, uint16 (n,), each document preceded by BOS."""

    tokens: Tokens
    counts: SplitCounts


class DocumentBatch(NamedTuple):
    """Documents of both splits. read: number of documents of the text up to the end of the batch, duplicates included."""

    read: int
    train: list[bytes]
    val: list[bytes]


class EncodedBatch(NamedTuple):
    """The documents of a batch, encoded. read: as in `DocumentBatch`."""

    read: int
    train: EncodedSplit
    val: EncodedSplit


def encode_batch(serialized: bytes, use_own_normaliser: bool, batch: DocumentBatch) -> EncodedBatch:
    """Encode the documents of a batch with a serialized tokenizer, which is opened once per process.

    use_own_normaliser: encode with SentencePiece's own normaliser, as in the challenge's shards, instead of losslessly.
    """
    tokenizer = _tokenizer(serialized)
    train, val = (_encode_split(tokenizer, use_own_normaliser, documents) for documents in (batch.train, batch.val))
    return EncodedBatch(batch.read, train, val)


@lru_cache(maxsize=1)
def _tokenizer(serialized: bytes) -> Tokenizer:
    tokenizer = tokenizer_from_bytes(serialized)
    tokenizer.threads = 1  # each core has a process of its own
    return tokenizer


def _encode_split(tokenizer: Tokenizer, use_own_normaliser: bool, documents: Sequence[bytes]) -> EncodedSplit:
    if not documents:
        return EncodedSplit(np.zeros(0, np.uint16), SplitCounts())
    raw, lost = sum(map(len, documents)), 0
    if use_own_normaliser:
        encoded, losses = zip(*map(tokenizer.encode_normalised, documents), strict=True)
        lost = sum(losses)
    else:
        encoded = tokenizer.encode_documents(documents)
    tokens = _with_bos(encoded, tokenizer.bos)
    size = int(tokenizer.count_bytes(tokens).sum())
    assert use_own_normaliser or size == raw, "the bytes of the tokens must sum to those of the documents"
    return EncodedSplit(tokens, SplitCounts(len(documents), len(tokens), raw, size, lost))


def _with_bos(encoded: Sequence[Ids], bos: int) -> Tokens:
    """Return the tokens of all documents, each preceded by BOS, uint16 (n,)."""
    ends = np.cumsum([len(ids) + 1 for ids in encoded])
    tokens = np.empty(ends[-1], np.uint16)
    tokens[0] = bos
    tokens[ends[:-1]] = bos
    for ids, end in zip(encoded, ends.tolist(), strict=True):
        tokens[end - len(ids) : end] = ids
    return tokens
