"""The manifest of a prepared data folder: shards, counts and digests of each split.

The shards lie beside the manifest if `prepare_data` wrote them. If they were there before, such as published ones, they
stay in their folder, which the manifest names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bitgolf.data.shards import TokenStream
from bitgolf.errors import BitgolfError, CorruptFileError, FormatVersionError
from bitgolf.files import file_digest, json_digest

FORMAT = 3
SPLITS = ("train", "val")


class ShardEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A shard file: its name, number of tokens, and digest (`files.file_digest`)."""

    name: str
    tokens: int
    digest: str


class SplitManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Counts and files of a split.

    tokens: including BOS. raw_bytes: length of the documents; encoded_bytes: length of the text that the tokens decode
    to; lost_bytes: raw bytes that the encoding lost or changed. raw_bytes and lost_bytes are None if only the tokens are
    known. fingerprints: digest of the fingerprint file. sidecar_bytes: total of the byte sidecars, None without any.
    """

    documents: int
    tokens: int
    raw_bytes: int | None
    encoded_bytes: int
    lost_bytes: int | None
    shards: tuple[ShardEntry, ...]
    fingerprints: str
    sidecar_bytes: int | None = None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Contents of a prepared data folder.

    tokenizer: the digest of `tokenizer.model`. shards_folder: absolute path of the folder of the shards; "" if they lie
    beside the manifest.
    """

    tokenizer: str
    vocab: int
    bos: int
    train: SplitManifest
    val: SplitManifest
    shards_folder: str = ""
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        return msgspec.to_builtins(self)

    def split(self, name: str) -> SplitManifest:
        """Return the split "train" or "val"."""
        return {"train": self.train, "val": self.val}[name]


class _Version(msgspec.Struct):
    format: int | None = None


def is_prepared(folder: Path) -> bool:
    """Whether a folder has a manifest of Bitgolf, even a damaged one. A published manifest.json is of another kind."""
    path = folder / "manifest.json"
    return path.exists() and (any(folder.glob("*_documents.fp")) or b'"format"' in path.read_bytes())


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


def data_digest(folder: Path) -> str:
    """Return a digest of a prepared folder's manifest. It does not depend on where the shards lie."""
    return json_digest(msgspec.structs.replace(load_manifest(folder), shards_folder="").to_json())


def open_split(folder: Path, split: str) -> TokenStream:
    """Return the tokens of the split "train" or "val" of a prepared folder: the shards that its manifest lists.

    Raises the errors of `load_manifest` and `read_shard`, and `CorruptFileError` if a shard has another number of
    tokens than the manifest states.
    """
    manifest = load_manifest(folder)
    place, entries = Path(manifest.shards_folder or folder), manifest.split(split).shards
    stream = TokenStream([place / entry.name for entry in entries])
    for entry, size in zip(entries, stream.shard_sizes.tolist(), strict=True):
        if size != entry.tokens:
            raise changed_shard(place / entry.name, f"{size:,} tokens instead of {entry.tokens:,}")
    return stream


def check_digests(folder: Path, split: str) -> None:
    """Raise `CorruptFileError` if the contents of a shard are not those that the manifest states. Reads all of them."""
    manifest = load_manifest(folder)
    for entry in manifest.split(split).shards:
        path = Path(manifest.shards_folder or folder) / entry.name
        found = file_digest(path) if path.is_file() else "none, as the file is missing,"
        if found != entry.digest:
            raise changed_shard(path, f"digest {found} instead of {entry.digest}")


def changed_shard(path: Path, change: str) -> CorruptFileError:
    """Return the error for a shard that is not as its manifest states. change: what differs."""
    return CorruptFileError(
        f"the shard has changed since its manifest was written ({change})",
        where=str(path),
        hint="restore the file, or make the folder again with `bitgolf data make`",
    )
