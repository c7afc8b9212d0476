"""Folders of shards as `--shards` names them: written by `data make`, published, or the data of another run.

Published folders have no manifest. What it would state is found by reading the shards once (`data.scan`). The shards
stay where they are: `adopt_shards` writes a data folder whose manifest names their folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from bitgolf.data.manifest import SPLITS, Manifest, SplitManifest, changed_shard, is_prepared, load_manifest
from bitgolf.data.overlap import PUBLISHED_OVERLAP, Fingerprints, check_overlap, read_fingerprints, write_fingerprints
from bitgolf.data.scan import SplitScan, scan_split
from bitgolf.data.shards import TokenStream, find_shards, find_sidecars
from bitgolf.data.sidecar import compare_sidecars
from bitgolf.errors import CorruptFileError, UsageError
from bitgolf.files import digest, file_digest, write_bytes, write_json
from bitgolf.report.findings import DataFinding
from bitgolf.report.log import RunLog
from bitgolf.tokens.loading import load_tokenizer
from bitgolf.tokens.tokenizer import Tokenizer

TOKENIZER_FILES = ("*.model", "tokenizer.json", "*.tiktoken")
"""Patterns of the names of tokenizer files."""


class ShardFolder(NamedTuple):
    """A folder of shards. manifest: the one that `prepare_data` or `adopt_shards` wrote; None if there is none."""

    folder: Path
    tokenizer: Tokenizer
    manifest: Manifest | None

    @property
    def place(self) -> Path:
        """Absolute path of the folder in which the shards lie."""
        elsewhere = self.manifest.shards_folder if self.manifest else ""
        return Path(elsewhere) if elsewhere else self.folder.resolve()

    def shards(self, split: str) -> list[Path]:
        """Paths of the shards of a split. Raises `CorruptFileError` if they are not those that the manifest lists."""
        if not self.manifest:
            return find_shards(self.place, split)
        listed = [self.place / entry.name for entry in self.manifest.split(split).shards]
        if more := sorted({*find_shards(self.place, split)} - {*listed}):
            cause = f"the manifest does not list this {split} shard"
            hint = f"remove it, or remove {self.folder / 'manifest.json'} to use all shards of the folder"
            raise CorruptFileError(cause, where=str(more[0]), hint=hint)
        return listed

    def check_files(self) -> None:
        """Raise an error if a shard is missing, or its header or size is wrong. Reads headers only."""
        for split in SPLITS:
            TokenStream(self.shards(split))


class InspectedSplit(NamedTuple):
    """Result of reading a split of a folder.

    text: tokens of the shards. counts: what a manifest states. findings: warnings and notes.
    """

    text: TokenStream
    counts: SplitManifest
    fingerprints: Fingerprints
    findings: list[DataFinding]


def check_tokenizer_option(tokenizer_file: Path | None, shards: Path | None) -> None:
    """Raise `UsageError` if --tokenizer was given without --shards, or is not a file."""
    if tokenizer_file and not shards:
        message = "--tokenizer has no effect without --shards"
        raise UsageError(message, where=f"--tokenizer {tokenizer_file}", hint="add --shards DIR, or leave it out")
    if tokenizer_file and not tokenizer_file.is_file():
        raise UsageError("there is no such file", where=f"--tokenizer {tokenizer_file}", hint="check its path")


def find_tokenizer(folder: Path) -> Path:
    """Return `tokenizer.model` in a folder, or else the only tokenizer file there (`TOKENIZER_FILES`).

    Raises `UsageError` if there is none or more than one.
    """
    if (own := folder / "tokenizer.model").exists():
        return own
    found, hint = _tokenizers(folder), "--tokenizer FILE names the tokenizer that made the shards"
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise UsageError(f"the folder has {len(found)} tokenizers ({names})", where=str(folder), hint=hint)
    if near := [*_tokenizers(folder.resolve().parent), *_tokenizers(folder.resolve().parent.parent / "tokenizers")]:
        hint += f", perhaps {' or '.join(map(str, near[:4]))}"  # published as tokenizers/ beside datasets/NAME/
    raise UsageError("the folder has no tokenizer", where=str(folder), hint=hint)


def _tokenizers(folder: Path) -> list[Path]:
    return sorted(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern))


def open_shard_folder(folder: Path, tokenizer_file: Path | None = None) -> ShardFolder:
    """Open a folder of shards. tokenizer_file: the tokenizer that made them; None for the one in the folder.

    The shards are not read. Raises `UsageError` if the folder or its tokenizer is missing, or the tokenizer is not that
    of the manifest, and the errors of `load_manifest` and `load_tokenizer`.
    """
    if not folder.is_dir():
        raise UsageError("there is no such folder", where=str(folder), hint="--shards DIR names a folder of shards")
    manifest = load_manifest(folder) if is_prepared(folder) else None
    tokenizer = load_tokenizer(tokenizer_file or find_tokenizer(folder))
    if manifest and tokenizer.digest != manifest.tokenizer:
        cause = f"the shards were made with the tokenizer {manifest.tokenizer:.12}, not with this one"
        hint = "leave --tokenizer out" if tokenizer_file else "make the folder again with `bitgolf data make`"
        raise UsageError(f"{cause} ({tokenizer.digest:.12})", where=tokenizer.where, hint=hint)
    if tokenizer.bos < 0:
        hint = "shards need a tokenizer with a token that precedes each document"
        raise UsageError("the tokenizer has no BOS token", where=tokenizer.where, hint=hint)
    return ShardFolder(folder, tokenizer, manifest)


def folder_state(folder: Path, tokenizer_file: Path | None = None) -> list[list[str | int]]:
    """Return name, size and time of each file that `adopt_shards` reads: it changes if one of them does.

    Raises `UsageError` if there are no shards or no tokenizer.
    """
    manifest = [folder / "manifest.json"] if is_prepared(folder) else []
    place = Path((load_manifest(folder).shards_folder if manifest else "") or folder)
    shards = [path for split in SPLITS for path in find_shards(place, split)]
    files = [*shards, *find_sidecars(place, "val"), tokenizer_file or find_tokenizer(folder), *manifest]
    return [_file_state(path) for path in files]


def _file_state(path: Path) -> list[str | int]:
    try:
        stat = path.stat()
    except OSError as error:
        hint = "restore the file, or name the data again with --shards and --tokenizer"
        raise UsageError(f"the file cannot be read ({error.strerror})", where=str(path), hint=hint) from error
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def inspect_split(source: ShardFolder, split: str, log: RunLog) -> InspectedSplit:
    """Read a split once: check every token, and count, or compare with the manifest. log: receives progress.

    Raises `CorruptFileError` if a shard is not as the manifest states, and the errors of `scan_split`.
    """
    paths = source.shards(split)
    scan = scan_split(split, paths, source.tokenizer, log)
    findings = list(_findings(split, scan, source.tokenizer))
    if source.manifest:
        counts = source.manifest.split(split)
        fingerprints = _stated_fingerprints(source.folder / f"{split}_documents.fp", counts)
        _compare(scan, counts, source.place)
        return InspectedSplit(scan.stream, counts, fingerprints, findings)
    sidecar_bytes = None
    if sidecars := find_sidecars(source.place, "val") if split == "val" else []:
        compared = compare_sidecars(paths, sidecars, scan.starts, source.tokenizer)
        severity = "warning" if compared.differing else "note"
        findings.append(DataFinding("byte-sidecar", severity, compared.explanation()))
        sidecar_bytes = compared.sidecar_bytes
    counts = SplitManifest(
        documents=len(scan.starts),
        tokens=len(scan.stream),
        raw_bytes=None,
        encoded_bytes=scan.encoded_bytes,
        lost_bytes=None,
        shards=scan.entries,
        fingerprints=digest(scan.fingerprints.astype("<u8").tobytes()),
        sidecar_bytes=sidecar_bytes,
    )
    return InspectedSplit(scan.stream, counts, scan.fingerprints, findings)


def _findings(split: str, scan: SplitScan, tokenizer: Tokenizer) -> Iterator[DataFinding]:
    if first := int(scan.starts[0]):
        message = f"the first {first:,} {split} tokens precede the first BOS: they are the end of a document"
        yield DataFinding("document-starts", "warning", message)
    if scan.tokens_without_text:
        message = (
            f"{scan.tokens_without_text:,} {split} tokens decode to nothing (such as <unk>): if they stand for text, "
            "its bytes are not counted, and bits per byte are higher than those of the original text"
        )
        yield DataFinding("tokens-without-text", "warning", message)
    if split == "val" and not tokenizer.has_space:
        message = (
            "the tokenizer has no piece for a space: SentencePiece's own encoding, as in published shards, stores three "
            "byte tokens for it. They count as three bytes, so bits per byte are lower than those of the original text"
        )
        yield DataFinding("no-space-piece", "warning", message)


def _stated_fingerprints(path: Path, counts: SplitManifest) -> Fingerprints:
    found = read_fingerprints(path)
    if file_digest(path) != counts.fingerprints or len(found) != counts.documents:
        hint = "restore the file, or make the folder again with `bitgolf data make`"
        raise CorruptFileError(
            "the fingerprints have changed since the manifest was written", where=str(path), hint=hint
        )
    return found


def _compare(scan: SplitScan, stated: SplitManifest, place: Path) -> None:
    """Raise `CorruptFileError` if a shard, or a total of the split, is not as the manifest states."""
    for found, entry in zip(scan.entries, stated.shards, strict=True):
        if found.digest != entry.digest:
            raise changed_shard(place / entry.name, f"digest {found.digest} instead of {entry.digest}")
    counted = {"documents": len(scan.starts), "tokens": len(scan.stream), "encoded_bytes": scan.encoded_bytes}
    for name, value in counted.items():
        if value != getattr(stated, name):
            cause = f"counted {value:,} {name}, but the manifest states {getattr(stated, name):,}"
            raise CorruptFileError(cause, where=str(place), hint="make the folder again with `bitgolf data make`")


def compare_splits(source: ShardFolder, train: Fingerprints, validation: Fingerprints) -> list[DataFinding]:
    """Return a warning if a published set has the same documents in both splits. Raises the error of `check_overlap`."""
    tolerated = 0.0 if source.manifest and source.manifest.train.raw_bytes is not None else PUBLISHED_OVERLAP
    found = check_overlap(train, validation, where=str(source.folder), tolerated=tolerated)
    return [found] if found else []


def log_findings(log: RunLog, findings: Iterable[DataFinding]) -> None:
    """Log warnings as events, and notes as lines."""
    for finding in findings:
        if finding.severity == "note":
            log.info(finding.message)
        else:
            log.event("warning", message=finding.message)


def adopt_shards(source: ShardFolder, target: Path, log: RunLog) -> Manifest:
    """Write a data folder for shards that stay where they are: manifest, tokenizer, and fingerprints of the documents.

    Reads all shards once, before anything is written. Findings are logged as warnings. Raises `UsageError` if the shards
    lie in `target`, `BitgolfError` if a document is in both splits, and the errors of `inspect_split`.
    """
    if target.resolve() in (source.place, source.folder.resolve()):
        raise UsageError("these shards are the data of this run", where=str(source.folder), hint="leave --shards out")
    splits = {split: inspect_split(source, split, log) for split in ("val", "train")}  # val is the shorter one
    for split in splits.values():
        log_findings(log, split.findings)
    log_findings(log, compare_splits(source, splits["train"].fingerprints, splits["val"].fingerprints))
    for path in (target / "manifest.json", *target.glob("*.bin")):  # the manifest first: without it, nothing is trained
        path.unlink(missing_ok=True)
    tokenizer = source.tokenizer
    write_bytes(target / "tokenizer.model", tokenizer.serialized)
    for name, split in splits.items():
        write_fingerprints(target / f"{name}_documents.fp", split.fingerprints)
    train, val = (splits[name].counts for name in SPLITS)
    manifest = Manifest(tokenizer.digest, tokenizer.vocab, tokenizer.bos, train, val, shards_folder=str(source.place))
    write_json(target / "manifest.json", msgspec.to_builtins(manifest))
    return manifest
