"""Verification of a data folder: all numbers of its manifest are recomputed from the shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from bitgolf.data.manifest import SPLITS, Manifest, SplitManifest, is_prepared, load_manifest
from bitgolf.data.overlap import PUBLISHED_OVERLAP, check_overlap, read_fingerprints, stream_fingerprints
from bitgolf.data.scan import scan_split
from bitgolf.data.shard_folder import compare_splits, find_tokenizer, inspect_split, open_shard_folder
from bitgolf.data.shards import TokenStream, find_shards, find_sidecars, read_shard
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.files import file_digest
from bitgolf.report.findings import DataFinding
from bitgolf.report.log import RunLog
from bitgolf.tokens.loading import load_tokenizer
from bitgolf.tokens.tokenizer import Tokenizer

CHALLENGE_BOS = 1


def check_fingerprints(folder: Path, tolerated: float = 0.0) -> Iterator[DataFinding]:
    """Yield the finding of `check_overlap` for a prepared folder, and raise its error."""
    train, val = (read_fingerprints(folder / f"{name}_documents.fp") for name in SPLITS)
    if overlap := check_overlap(train, val, where=str(folder), tolerated=tolerated):
        yield overlap


def verify_data(folder: Path, tokenizer_file: Path | None = None, log: RunLog | None = None) -> list[DataFinding]:
    """Check a data folder and return the findings. Reads all shards, and recomputes every number of the manifest.

    Published shards have no manifest. Their format, document starts, and overlap (by tokens) are checked, and with a
    tokenizer also the ids and the byte sidecars. tokenizer_file: that tokenizer; None for the one in the folder.
    log: receives progress.
    """
    log = log or RunLog(quiet=True)
    if is_prepared(folder):
        return list(_errors_as_findings("manifest", lambda: _verify_manifest(folder, load_manifest(folder), log)))
    note = DataFinding("no-manifest", "note", f"{folder}: no manifest, so counts of the raw text cannot be checked")
    try:
        tokenizer_file = tokenizer_file or find_tokenizer(folder)
    except UsageError as error:
        message = f"ids and bytes are not checked, because {error.message}: {error.hint}"
        unchecked = DataFinding("no-tokenizer", "note", message)
        return [note, unchecked, *_errors_as_findings("shards", lambda: _verify_without_tokenizer(folder))]
    return [
        note,
        *_errors_as_findings("shards", lambda: _verify_published_shards(folder, tokenizer_file, log)),
    ]


def _errors_as_findings(rule: str, findings: Callable[[], Iterable[DataFinding]]) -> Iterator[DataFinding]:
    """Yield the findings. A `BitgolfError` ends them, and is yielded as the last finding, of rule `rule`."""
    try:
        yield from findings()
    except BitgolfError as error:
        yield DataFinding(rule, "error", str(error))


def _verify_without_tokenizer(folder: Path) -> Iterator[DataFinding]:
    train, val = (TokenStream(find_shards(folder, name)) for name in SPLITS)
    for name, stream in zip(SPLITS, (train, val), strict=True):
        if stream.window(0, 1)[0] != CHALLENGE_BOS:
            yield DataFinding("document-starts", "warning", f"the first {name} token is not BOS ({CHALLENGE_BOS})")
    found = [stream_fingerprints(stream, CHALLENGE_BOS) for stream in (train, val)]
    if overlap := check_overlap(*found, where=str(folder), tolerated=PUBLISHED_OVERLAP):
        yield overlap


def _verify_published_shards(folder: Path, tokenizer_file: Path, log: RunLog) -> Iterator[DataFinding]:
    source, found = open_shard_folder(folder, tokenizer_file), []
    for name in SPLITS:
        split = inspect_split(source, name, log)
        yield from split.findings
        found.append(split.fingerprints)
    yield from compare_splits(source, *found)


def _verify_manifest(folder: Path, manifest: Manifest, log: RunLog) -> Iterator[DataFinding]:
    tokenizer = load_tokenizer(folder / "tokenizer.model")
    found, stated = (
        (tokenizer.digest, tokenizer.vocab, tokenizer.bos),
        (manifest.tokenizer, manifest.vocab, manifest.bos),
    )
    if found != stated:
        yield DataFinding(
            "tokenizer", "error", f"tokenizer.model does not match the manifest: {found} instead of {stated}"
        )
    place = Path(manifest.shards_folder or folder)
    for name in SPLITS:
        split = manifest.split(name)
        yield from _errors_as_findings(
            "shards", lambda name=name, split=split: _verify_shards(place, name, split, tokenizer, log)
        )
        yield from _errors_as_findings("shards", lambda name=name, split=split: _verify_documents(folder, name, split))
        yield from _verify_raw_bytes(name, split)
        yield from _errors_as_findings("shards", lambda name=name, split=split: _verify_sidecars(place, name, split))
    tolerated = 0.0 if manifest.train.raw_bytes is not None else PUBLISHED_OVERLAP
    yield from _errors_as_findings("overlap", lambda: check_fingerprints(folder, tolerated))


def _verify_shards(
    folder: Path, name: str, split: SplitManifest, tokenizer: Tokenizer, log: RunLog
) -> Iterator[DataFinding]:
    """Compare the shards of a split with what the manifest states of them."""
    listed, present = [shard.name for shard in split.shards], find_shards(folder, name)
    if listed != (names := [path.name for path in present]):
        yield DataFinding("shards", "error", f"the {name} shards are {names}, but the manifest lists {listed}")
    scan, stated = scan_split(name, present, tokenizer, log), {shard.name: shard.digest for shard in split.shards}
    for entry in scan.entries:
        if stated.get(entry.name, entry.digest) != entry.digest:
            yield DataFinding("digest", "error", f"{folder / entry.name} has changed since it was written")
    if scan.starts[0] != 0:
        severity = "warning" if split.raw_bytes is None else "error"  # published shards may begin within a document
        yield DataFinding("document-starts", severity, f"the first {name} token is not BOS ({tokenizer.bos})")
    counted = {"documents": len(scan.starts), "tokens": len(scan.stream), "encoded_bytes": scan.encoded_bytes}
    for key, value in counted.items():
        if value != getattr(split, key):
            yield DataFinding(
                "counts", "error", f"{name}: counted {value:,} {key}, but the manifest states {getattr(split, key):,}"
            )


def _verify_documents(folder: Path, name: str, split: SplitManifest) -> Iterator[DataFinding]:
    path = folder / f"{name}_documents.fp"
    if len(read_fingerprints(path)) != split.documents or file_digest(path) != split.fingerprints:
        yield DataFinding("digest", "error", f"{path} has changed since it was written")


def _verify_raw_bytes(name: str, split: SplitManifest) -> Iterator[DataFinding]:
    """A finding if the counts of the raw text, which the shards do not contain, contradict those of the tokens."""
    raw, lost, encoded = split.raw_bytes, split.lost_bytes, split.encoded_bytes
    if raw is None and lost is None:
        return
    if raw is None or lost is None or not 0 <= lost <= raw or (lost == 0 and raw != encoded):
        stated = f"{raw} raw_bytes, {lost} lost_bytes and {encoded} encoded_bytes"
        yield DataFinding("counts", "error", f"{name}: the manifest states {stated}, which contradict each other")


def _verify_sidecars(folder: Path, name: str, split: SplitManifest) -> Iterator[DataFinding]:
    """A finding if the byte sidecars have another total than the manifest states."""
    if split.sidecar_bytes is None:
        return
    sidecars = find_sidecars(folder, name)
    counted = sum(int(read_shard(path).sum(dtype=np.int64)) for path in sidecars)
    if counted != split.sidecar_bytes:
        message = f"{name}: counted {counted:,} sidecar_bytes, but the manifest states {split.sidecar_bytes:,}"
        yield DataFinding("counts", "error", message)
