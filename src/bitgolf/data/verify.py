"""Verification of a data folder: all numbers of its manifest are recomputed from the shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitgolf.data.manifest import SPLITS, Manifest, SplitManifest, load_manifest
from bitgolf.data.overlap import check_overlap, read_fingerprints, stream_fingerprints
from bitgolf.data.shards import TokenStream, find_shards
from bitgolf.errors import BitgolfError
from bitgolf.files import file_digest
from bitgolf.report.findings import DataFinding
from bitgolf.tokens.loading import load_tokenizer
from bitgolf.tokens.tokenizer import Tokenizer

CHALLENGE_BOS = 1
_BLOCK_TOKENS = 1 << 22  # per step of counting


def check_fingerprints(folder: Path) -> None:
    """Raise `BitgolfError` if a document of a prepared folder is in both splits."""
    train, val = (read_fingerprints(folder / f"{name}_documents.fp") for name in SPLITS)
    check_overlap(train, val, where=str(folder))


def verify_data(folder: Path) -> list[DataFinding]:
    """Check a data folder and return the findings. Reads all shards, and recomputes every number of the manifest.

    For published shards, which have no manifest, it checks the format, the document starts and the overlap (by tokens).
    """
    if not (folder / "manifest.json").exists():
        note = DataFinding("no-manifest", "note", f"{folder}: no manifest, so counts of the raw text cannot be checked")
        return [note, *_errors_as_findings("shards", lambda: _verify_published_shards(folder))]
    return list(_errors_as_findings("manifest", lambda: _verify_manifest(folder, load_manifest(folder))))


def _errors_as_findings(rule: str, findings: Callable[[], Iterable[DataFinding]]) -> Iterator[DataFinding]:
    """Yield the findings. A `BitgolfError` ends them, and is yielded as the last finding, of rule `rule`."""
    try:
        yield from findings()
    except BitgolfError as error:
        yield DataFinding(rule, "error", str(error))


def _verify_published_shards(folder: Path) -> Iterator[DataFinding]:
    train, val = (TokenStream(find_shards(folder, name)) for name in SPLITS)
    for name, stream in zip(SPLITS, (train, val), strict=True):
        if stream.window(0, 1)[0] != CHALLENGE_BOS:
            yield DataFinding("document-starts", "warning", f"the first {name} token is not BOS ({CHALLENGE_BOS})")
    check_overlap(*(stream_fingerprints(stream, CHALLENGE_BOS) for stream in (train, val)), where=str(folder))


def _verify_manifest(folder: Path, manifest: Manifest) -> Iterator[DataFinding]:
    tokenizer = load_tokenizer(folder / "tokenizer.model")
    found, stated = (
        (tokenizer.digest, tokenizer.vocab, tokenizer.bos),
        (manifest.tokenizer, manifest.vocab, manifest.bos),
    )
    if found != stated:
        yield DataFinding(
            "tokenizer", "error", f"tokenizer.model does not match the manifest: {found} instead of {stated}"
        )
    for name in SPLITS:
        split: SplitManifest = getattr(manifest, name)
        yield from _errors_as_findings("shards", lambda name=name, split=split: _verify_files(folder, name, split))
        yield from _errors_as_findings(
            "shards", lambda name=name, split=split: _verify_counts(folder, name, split, tokenizer)
        )
    yield from _errors_as_findings("overlap", lambda: check_fingerprints(folder) or ())


def _verify_files(folder: Path, name: str, split: SplitManifest) -> Iterator[DataFinding]:
    listed, present = [shard.name for shard in split.shards], [path.name for path in find_shards(folder, name)]
    if listed != present:
        yield DataFinding("shards", "error", f"the {name} shards are {present}, but the manifest lists {listed}")
    for shard in split.shards:
        if shard.name in present and file_digest(folder / shard.name) != shard.digest:
            yield DataFinding("digest", "error", f"{folder / shard.name} has changed since it was written")
    path = folder / f"{name}_documents.fp"
    if len(read_fingerprints(path)) != split.documents or file_digest(path) != split.fingerprints:
        yield DataFinding("digest", "error", f"{path} has changed since it was written")


def _verify_counts(folder: Path, name: str, split: SplitManifest, tokenizer: Tokenizer) -> Iterator[DataFinding]:
    stream = TokenStream(find_shards(folder, name))
    counts = _token_counts(stream)
    if unknown := int(counts[tokenizer.vocab :].sum()):
        yield DataFinding(
            "vocabulary", "error", f"{unknown:,} {name} tokens are outside the vocabulary of {tokenizer.vocab:,} tokens"
        )
    if stream.window(0, 1)[0] != tokenizer.bos:
        yield DataFinding("document-starts", "error", f"the first {name} token is not BOS ({tokenizer.bos})")
    counted = {
        "documents": int(counts[tokenizer.bos]),
        "tokens": len(stream),
        "encoded_bytes": _encoded_bytes(stream, tokenizer),
    }
    for key, value in counted.items():
        if value != getattr(split, key):
            yield DataFinding(
                "counts", "error", f"{name}: counted {value:,} {key}, but the manifest states {getattr(split, key):,}"
            )


def _encoded_bytes(stream: TokenStream, tokenizer: Tokenizer) -> int:
    """Return the number of bytes of all tokens, in blocks of a few million tokens that end at document starts."""
    starts = stream.document_starts(tokenizer.bos)
    wanted = np.searchsorted(starts, np.arange(_BLOCK_TOKENS, len(stream), _BLOCK_TOKENS))
    cuts = [0, *np.unique(starts[wanted[wanted < len(starts)]]).tolist(), len(stream)]
    blocks = (stream.window(start, stop - start) for start, stop in pairwise(cuts))
    return sum(int(tokenizer.count_bytes(block[block < tokenizer.vocab]).sum()) for block in blocks)


def _token_counts(stream: TokenStream) -> npt.NDArray[np.int64]:
    """Return the number of occurrences of each token id, int64 (65536,)."""
    blocks = (shard[i : i + _BLOCK_TOKENS] for shard in stream.shards for i in range(0, len(shard), _BLOCK_TOKENS))
    return sum((np.bincount(block, minlength=65_536) for block in blocks), np.zeros(65_536, np.int64))
