"""From documents to a folder that training and scoring read: tokenizer, shards, fingerprints, and a manifest of it all.

The manifest is written last, so a folder that has one is complete. `check` believes none of it and counts again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from bitgolf.data.overlap import check_overlap, fingerprints, read_fingerprints, stream_fingerprints, write_fingerprints
from bitgolf.data.shards import Stream, Tokens, find_shards, write_shard
from bitgolf.errors import BitgolfError, DamagedError
from bitgolf.files import file_digest, write_bytes, write_json
from bitgolf.text.documents import Document
from bitgolf.tokens.audit import Finding
from bitgolf.tokens.loading import load_tokenizer
from bitgolf.tokens.tokenizer import Ids, Tokenizer

SPLITS = ("train", "val")
CHALLENGE_BOS = 1
_BATCH = 4_000_000  # bytes of text that are encoded at a time
_BLOCK = 1 << 22  # tokens that are counted at a time


class Shard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    tokens: int
    digest: str


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One side. tokens: BOS included; raw_bytes: of the documents; encoded_bytes: those that the tokens stand for;
    lost_bytes: raw bytes that the encoding lost or changed; fingerprints: the digest of their file."""

    documents: int
    tokens: int
    raw_bytes: int
    encoded_bytes: int
    lost_bytes: int
    shards: tuple[Shard, ...]
    fingerprints: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a folder of data holds. tokenizer: the digest of `tokenizer.model`."""

    tokenizer: str
    vocab: int
    bos: int
    train: Split
    val: Split
    format: int = 1

    def to_json(self) -> dict[str, Any]:
        return msgspec.to_builtins(self)


def load_manifest(folder: Path) -> Manifest:
    path = folder / "manifest.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError:
        message = "there is no manifest: the data was never prepared, or not to its end"
        raise BitgolfError(message, place=str(path), mend="bitgolf data make") from None
    except msgspec.MsgspecError as error:
        raise DamagedError(f"not a manifest ({error})", place=str(path)) from None


# ---- making ----------------------------------------------------------------------------------------------------


def prepare(
    documents_train: Iterable[Document],
    documents_val: Iterable[Document],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    shard_tokens: int = 10**8,
    normalise: bool = False,
) -> Manifest:
    """Write tokenizer.model, train_000000.bin, ..., val_000000.bin, ..., a .fp file for each split, manifest.json.

    Each document follows a BOS; there is no EOS. `normalise` encodes as SentencePiece does (the challenge's shards were
    made so) instead of exactly. Memory holds one shard and one batch of documents, however many there are.
    Raises `BitgolfError` for a document that is in both splits, a split without documents, a tokenizer without BOS.
    """
    if tokenizer.bos < 0 or tokenizer.vocab > 65_536:
        raise BitgolfError(
            f"shards need a BOS and at most 65,536 tokens; here are {tokenizer.vocab:,}", place=tokenizer.place
        )
    _clear(folder)
    write_bytes(folder / "tokenizer.model", tokenizer.proto)
    sides = {}
    for name, documents in (("val", documents_val), ("train", documents_train)):
        tally = _Tally(tokenizer, normalise)
        shards = _write_shards(folder, name, tally.encode(documents), shard_tokens)
        sides[name] = tally.close(folder / f"{name}_documents.fp", shards)
    _check_fingerprints(folder)
    manifest = Manifest(tokenizer.digest, tokenizer.vocab, tokenizer.bos, **sides)
    write_json(folder / "manifest.json", manifest.to_json())
    return manifest


def _clear(folder: Path) -> None:
    """Remove what an earlier `prepare` left, its manifest first: one shard too many would be trained on."""
    for pattern in ("manifest.json", *(f"{name}_*.bin" for name in SPLITS)):
        for path in folder.glob(pattern):
            path.unlink()


@dataclass
class _Tally:
    """Encodes documents, and counts as they pass."""

    tokenizer: Tokenizer
    normalise: bool
    tokens: int = 0
    raw: int = 0
    encoded: int = 0
    lost: int = 0
    seen: list[npt.NDArray[np.uint64]] = field(default_factory=list)

    def encode(self, documents: Iterable[Document]) -> Iterator[Tokens]:
        for batch in _batches(documents):
            self.seen.append(fingerprints(batch))
            for data, (ids, lost) in zip(batch, self._encode(batch), strict=True):
                self.tokens += len(ids) + 1
                self.raw += len(data)
                self.encoded += int(self.tokenizer.token_bytes(ids).sum())
                self.lost += lost
                yield np.concatenate([[self.tokenizer.bos], ids]).astype(np.uint16)

    def _encode(self, batch: list[bytes]) -> list[tuple[Ids, int]]:
        if self.normalise:
            return [self.tokenizer.encode_normalised(data) for data in batch]
        return [(ids, 0) for ids in self.tokenizer.encode_documents(batch)]

    def close(self, path: Path, shards: tuple[Shard, ...]) -> Split:
        assert self.normalise or self.encoded == self.raw
        if not shards:
            raise BitgolfError("there are no documents", place=path.stem.replace("_", " "))
        seen = np.concatenate(self.seen)
        write_fingerprints(path, seen)
        return Split(len(seen), self.tokens, self.raw, self.encoded, self.lost, shards, file_digest(path))


def _batches(documents: Iterable[Document]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for document in documents:
        batch.append(document.data)
        size += len(document.data)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write_shards(folder: Path, name: str, arrays: Iterable[Tokens], size: int) -> tuple[Shard, ...]:
    shards = []
    for i, ids in enumerate(_in_pieces(arrays, size)):
        path = folder / f"{name}_{i:06d}.bin"
        write_shard(path, ids)
        shards.append(Shard(path.name, len(ids), file_digest(path)))
    return tuple(shards)


def _in_pieces(arrays: Iterable[Tokens], size: int) -> Iterator[Tokens]:
    """The same tokens, `size` at a time."""
    held: list[Tokens] = []
    room = size
    for array in arrays:
        while len(array) >= room:
            yield np.concatenate([*held, array[:room]])
            array, held, room = array[room:], [], size
        held.append(array)
        room -= len(array)
    if room < size:
        yield np.concatenate(held)


def _check_fingerprints(folder: Path) -> None:
    train, val = (read_fingerprints(folder / f"{name}_documents.fp") for name in SPLITS)
    check_overlap(train, val, place=str(folder))


# ---- checking --------------------------------------------------------------------------------------------------


def check(folder: Path) -> list[Finding]:
    """What is wrong with a folder of data; every number of its manifest is counted again. Reads all of it.

    Of published shards, which have no manifest, the format, the document starts and the overlap (by tokens) are checked.
    """
    if not (folder / "manifest.json").exists():
        note = Finding("no-manifest", "note", f"{folder}: no manifest, so nothing is known of the raw text")
        return [note, *_caught("shards", lambda: _published(folder))]
    return list(_caught("manifest", lambda: _against_manifest(folder, load_manifest(folder))))


def _caught(rule: str, findings: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings; an error that ends them early is the last one."""
    try:
        yield from findings()
    except BitgolfError as error:
        yield Finding(rule, "error", str(error))


def _published(folder: Path) -> Iterator[Finding]:
    train, val = (Stream(find_shards(folder, name)) for name in SPLITS)
    for name, stream in zip(SPLITS, (train, val), strict=True):
        if stream.window(0, 1)[0] != CHALLENGE_BOS:
            yield Finding("document-starts", "warning", f"the first {name} token is not BOS ({CHALLENGE_BOS})")
    check_overlap(*(stream_fingerprints(stream, CHALLENGE_BOS) for stream in (train, val)), place=str(folder))


def _against_manifest(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    tokenizer = load_tokenizer(folder / "tokenizer.model")
    found, stated = (
        (tokenizer.digest, tokenizer.vocab, tokenizer.bos),
        (manifest.tokenizer, manifest.vocab, manifest.bos),
    )
    if found != stated:
        yield Finding("tokenizer", "error", f"tokenizer.model is not the one of the manifest: {found}, not {stated}")
    for name in SPLITS:
        split: Split = getattr(manifest, name)
        yield from _caught("shards", lambda name=name, split=split: _files_of(folder, name, split))
        yield from _caught("shards", lambda name=name, split=split: _counts_of(folder, name, split, tokenizer))
    yield from _caught("overlap", lambda: _check_fingerprints(folder) or ())


def _files_of(folder: Path, name: str, split: Split) -> Iterator[Finding]:
    listed, present = [shard.name for shard in split.shards], [path.name for path in find_shards(folder, name)]
    if listed != present:
        yield Finding("shards", "error", f"the {name} shards are {present}; the manifest lists {listed}")
    for shard in split.shards:
        if shard.name in present and file_digest(folder / shard.name) != shard.digest:
            yield Finding("digest", "error", f"{folder / shard.name} has changed since it was made")
    path = folder / f"{name}_documents.fp"
    if len(read_fingerprints(path)) != split.documents or file_digest(path) != split.fingerprints:
        yield Finding("digest", "error", f"{path} has changed since it was made")


def _counts_of(folder: Path, name: str, split: Split, tokenizer: Tokenizer) -> Iterator[Finding]:
    stream = Stream(find_shards(folder, name))
    counts = _token_counts(stream)
    if unknown := int(counts[tokenizer.vocab :].sum()):
        yield Finding(
            "vocabulary", "error", f"{unknown:,} {name} tokens are not in the vocabulary of {tokenizer.vocab:,}"
        )
    if stream.window(0, 1)[0] != tokenizer.bos:
        yield Finding("document-starts", "error", f"the first {name} token is not BOS ({tokenizer.bos})")
    counted = {
        "documents": int(counts[tokenizer.bos]),
        "tokens": len(stream),
        "encoded_bytes": _encoded_bytes(stream, tokenizer),
    }
    for key, value in counted.items():
        if value != getattr(split, key):
            yield Finding(
                "counts", "error", f"{name}: {value:,} {key}, where the manifest says {getattr(split, key):,}"
            )


def _encoded_bytes(stream: Stream, tokenizer: Tokenizer) -> int:
    """The bytes that all tokens tell, a few million tokens at a time, cut where documents start."""
    starts = stream.starts(tokenizer.bos)
    wanted = np.searchsorted(starts, np.arange(_BLOCK, len(stream), _BLOCK))
    cuts = [0, *np.unique(starts[wanted[wanted < len(starts)]]).tolist(), len(stream)]
    blocks = (stream.window(start, stop - start) for start, stop in pairwise(cuts))
    return sum(int(tokenizer.token_bytes(block[block < tokenizer.vocab]).sum()) for block in blocks)


def _token_counts(stream: Stream) -> npt.NDArray[np.int64]:
    """How often each id occurs, int64 [65536]."""
    blocks = (shard[i : i + _BLOCK] for shard in stream.shards for i in range(0, len(shard), _BLOCK))
    return sum((np.bincount(block, minlength=65_536) for block in blocks), np.zeros(65_536, np.int64))
