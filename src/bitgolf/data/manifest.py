"""The manifest of a prepared data folder: shards, counts and digests of each split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bitgolf.errors import BitgolfError, CorruptFileError, FormatVersionError

FORMAT = 2
SPLITS = ("train", "val")


class ShardEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A shard file: its name, number of tokens, and digest (`files.file_digest`)."""

    name: str
    tokens: int
    digest: str


class SplitManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Counts and files of a split.

    tokens: including BOS. raw_bytes: length of the documents; encoded_bytes: length of the text that the tokens decode
    to; lost_bytes: raw bytes that the encoding lost or changed. fingerprints: digest of the fingerprint file.
    """

    documents: int
    tokens: int
    raw_bytes: int
    encoded_bytes: int
    lost_bytes: int
    shards: tuple[ShardEntry, ...]
    fingerprints: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Contents of a prepared data folder. tokenizer: the digest of `tokenizer.model`."""

    tokenizer: str
    vocab: int
    bos: int
    train: SplitManifest
    val: SplitManifest
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        return msgspec.to_builtins(self)


class _Version(msgspec.Struct):
    format: int | None = None


def load_manifest(folder: Path) -> Manifest:
    """Return the manifest of a prepared folder.

    Raises `BitgolfError` if it cannot be read, `CorruptFileError` if it is invalid, and `FormatVersionError` if its
    format version is another one.
    """
    path = folder / "manifest.json"
    try:
        data = path.read_bytes()
    except OSError as error:
        message = "there is no manifest: the data is not prepared, or its preparation did not finish"
        raise BitgolfError(message, where=str(path), hint="prepare it with `bitgolf data make`") from error
    try:
        found = msgspec.json.decode(data, type=_Version).format
        if found is None:
            raise ValueError("no format number")
        if found != FORMAT:
            raise FormatVersionError("the data manifest", found=found, supported=FORMAT, where=str(path))
        return msgspec.json.decode(data, type=Manifest)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise CorruptFileError(f"not a manifest ({error})", where=str(path)) from error
