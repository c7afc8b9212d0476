"""The manifest of a folder of prepared data: which shards it holds, and the counts and digests of each split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bitgolf.errors import BitgolfError, CorruptFileError, FormatVersionError

FORMAT = 2
SPLITS = ("train", "val")


class ShardEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    tokens: int
    digest: str


class SplitManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One side. tokens: BOS included; raw_bytes: of the documents; encoded_bytes: those that the tokens stand for;
    lost_bytes: raw bytes that the encoding lost or changed; fingerprints: the digest of their file."""

    documents: int
    tokens: int
    raw_bytes: int
    encoded_bytes: int
    lost_bytes: int
    shards: tuple[ShardEntry, ...]
    fingerprints: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a folder of data holds. tokenizer: the digest of `tokenizer.model`."""

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
    """The manifest of a prepared folder.

    Raises `BitgolfError` where there is none, `CorruptFileError` for a file that is no manifest, and `FormatVersionError` for
    one of another format.
    """
    path = folder / "manifest.json"
    try:
        data = path.read_bytes()
    except OSError as error:
        message = "there is no manifest: the data was never prepared, or not to its end"
        raise BitgolfError(message, where=str(path), hint="bitgolf data make") from error
    try:
        found = msgspec.json.decode(data, type=_Version).format
        if found is None:
            raise ValueError("it has no format number")
        if found != FORMAT:
            raise FormatVersionError("the data manifest", found=found, supported=FORMAT, where=str(path))
        return msgspec.json.decode(data, type=Manifest)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise CorruptFileError(f"not a manifest ({error})", where=str(path)) from error
