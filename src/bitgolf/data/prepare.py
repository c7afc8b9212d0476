"""Preparation of a data folder for training and scoring: tokenizer, shards, fingerprints, and a manifest.

The manifest is written last, so a folder with a manifest is complete. `data.verify` checks all of its numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitgolf.data.manifest import SPLITS, Manifest, ShardEntry, SplitManifest
from bitgolf.data.overlap import document_fingerprints, write_fingerprints
from bitgolf.data.shards import Tokens, write_shard
from bitgolf.data.verify import check_fingerprints
from bitgolf.errors import BitgolfError
from bitgolf.files import file_digest, write_bytes, write_json
from bitgolf.text.documents import Document
from bitgolf.tokens.tokenizer import Ids, Tokenizer

_ENCODE_BYTES = 4_000_000  # bytes of text per batch of documents


def prepare_data(
    documents_train: Iterable[Document],
    documents_val: Iterable[Document],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    shard_tokens: int = 10**8,
    use_own_normaliser: bool = False,
) -> Manifest:
    """Write tokenizer.model, train_000000.bin, ..., val_000000.bin, ..., one .fp file per split, and manifest.json.

    Each document is preceded by BOS; there is no EOS. use_own_normaliser: encode with SentencePiece's own normaliser,
    as in the challenge's shards, instead of losslessly. Only one shard and one batch of documents are held in memory.
    Raises `BitgolfError` if a document is in both splits, a split is empty, or the tokenizer has no BOS or too many
    tokens.
    """
    if tokenizer.bos < 0 or tokenizer.vocab > 65_536:
        raise BitgolfError(
            f"shards need a BOS token and at most 65,536 tokens, got BOS {tokenizer.bos}, {tokenizer.vocab:,} tokens",
            where=tokenizer.where,
        )
    _clear(folder)
    write_bytes(folder / "tokenizer.model", tokenizer.serialized)
    splits = {}
    for name, documents in (("val", documents_val), ("train", documents_train)):
        encoder = _DocumentEncoder(tokenizer, use_own_normaliser)
        shards = _write_shards(folder, name, encoder.encode(documents), shard_tokens)
        splits[name] = encoder.finish(folder / f"{name}_documents.fp", shards)
    check_fingerprints(folder)
    manifest = Manifest(tokenizer.digest, tokenizer.vocab, tokenizer.bos, **splits)
    write_json(folder / "manifest.json", manifest.to_json())
    return manifest


def _clear(folder: Path) -> None:
    """Remove the files of an earlier `prepare_data`, the manifest first, so that no old shard is trained on."""
    for pattern in ("manifest.json", *(f"{name}_*.bin" for name in SPLITS)):
        for path in folder.glob(pattern):
            path.unlink()


@dataclass
class _DocumentEncoder:
    """Encodes the documents of a split, and counts documents, tokens and bytes."""

    tokenizer: Tokenizer
    normalise: bool
    tokens: int = 0
    raw: int = 0
    encoded: int = 0
    lost: int = 0
    fingerprints: list[npt.NDArray[np.uint64]] = field(default_factory=list)

    def encode(self, documents: Iterable[Document]) -> Iterator[Tokens]:
        for batch in _batches(documents):
            self.fingerprints.append(document_fingerprints(batch))
            for data, (ids, lost) in zip(batch, self._encode(batch), strict=True):
                self.tokens += len(ids) + 1
                self.raw += len(data)
                self.encoded += int(self.tokenizer.count_bytes(ids).sum())
                self.lost += lost
                yield np.concatenate([[self.tokenizer.bos], ids]).astype(np.uint16)

    def _encode(self, batch: list[bytes]) -> list[tuple[Ids, int]]:
        if self.normalise:
            return [self.tokenizer.encode_normalised(data) for data in batch]
        return [(ids, 0) for ids in self.tokenizer.encode_documents(batch)]

    def finish(self, path: Path, shards: tuple[ShardEntry, ...]) -> SplitManifest:
        assert self.normalise or self.encoded == self.raw
        if not shards:
            raise BitgolfError("there are no documents", where=path.stem.replace("_", " "))
        found = np.concatenate(self.fingerprints)
        write_fingerprints(path, found)
        return SplitManifest(len(found), self.tokens, self.raw, self.encoded, self.lost, shards, file_digest(path))


def _batches(documents: Iterable[Document]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for document in documents:
        batch.append(document.data)
        size += len(document.data)
        if size >= _ENCODE_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write_shards(folder: Path, name: str, arrays: Iterable[Tokens], size: int) -> tuple[ShardEntry, ...]:
    shards = []
    for i, ids in enumerate(_rechunk(arrays, size)):
        path = folder / f"{name}_{i:06d}.bin"
        write_shard(path, ids)
        shards.append(ShardEntry(path.name, len(ids), file_digest(path)))
    return tuple(shards)


def _rechunk(arrays: Iterable[Tokens], size: int) -> Iterator[Tokens]:
    """Yield the same tokens in arrays of `size` tokens; the last one may be shorter."""
    held: list[Tokens] = []
    missing = size
    for array in arrays:
        while len(array) >= missing:
            yield np.concatenate([*held, array[:missing]])
            array, held, missing = array[missing:], [], size
        held.append(array)
        missing -= len(array)
    if missing < size:
        yield np.concatenate(held)
