"""`fetched.json` in a folder of fetched shards: where the files are from, and their sizes and digests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from bitgolf.data.hub.selection import RemoteFile
from bitgolf.errors import CorruptFileError, FormatVersionError
from bitgolf.files import read_json, write_json

FORMAT = 1
RECORD_NAME = "fetched.json"
_BLOCK_BYTES = 1 << 20


class FetchedFile(msgspec.Struct, frozen=True):
    """A verified file. path: in the repository. modified_ns: time of its last change, in nanoseconds since 1970."""

    path: str
    bytes: int
    sha256: str
    modified_ns: int


class FetchRecord(msgspec.Struct, kw_only=True):
    """Contents of `fetched.json`.

    commit: the revision of the repository that all files are from. folder: of the shards, in the repository. tokenizer:
    file name of the tokenizer. files: the verified files by name.
    """

    repository: str
    commit: str
    folder: str
    tokenizer: str
    files: dict[str, FetchedFile] = {}
    format: int = FORMAT


def load_record(folder: Path) -> FetchRecord | None:
    """Return the record of a folder, None if it has none. Raises `CorruptFileError` if it cannot be read."""
    path = folder / RECORD_NAME
    if not path.exists():
        return None
    value = read_json(path)
    found = value.get("format") if isinstance(value, dict) else None
    if found != FORMAT:
        raise FormatVersionError("the record of fetched files", found=found, supported=FORMAT, where=str(path))
    try:
        return msgspec.convert(value, FetchRecord)
    except msgspec.ValidationError as error:
        hint = "delete it and run the same command again: files that are there are verified, not fetched again"
        raise CorruptFileError(f"not a record of fetched files ({error})", where=str(path), hint=hint) from error


def save_record(folder: Path, record: FetchRecord) -> None:
    """Write the record of a folder atomically."""
    write_json(folder / RECORD_NAME, msgspec.to_builtins(record))


def matches_record(path: Path, file: RemoteFile, record: FetchRecord) -> bool:
    """Whether a file is as it was when it was verified, by size and time of change: its content is not read."""
    entry = record.files.get(path.name)
    if entry is None or not path.is_file():
        return False
    status = path.stat()
    known = (entry.path, entry.bytes, entry.sha256 if file.sha256 else "")
    unchanged = (status.st_size, status.st_mtime_ns) == (entry.bytes, entry.modified_ns)
    return unchanged and known == (file.path, file.size, file.sha256)


def entry_of(path: Path, file: RemoteFile, sha256: str) -> FetchedFile:
    """Return the entry of a file that was verified."""
    status = path.stat()
    return FetchedFile(path=file.path, bytes=status.st_size, sha256=sha256, modified_ns=status.st_mtime_ns)


def content_problem(path: Path, file: RemoteFile) -> tuple[str, str]:
    """Return what is wrong with the content of a file ("" if nothing), and its SHA-256 (64 hexadecimal digits).

    Compared are the size, and the SHA-256 or else the identifier of the Git blob, whichever the hub states.
    """
    size, digest = path.stat().st_size, hashlib.sha256()
    blob = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)  # as Git defines it
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK_BYTES):
            digest.update(block)
            if not file.sha256:
                blob.update(block)
    sha256, problem = digest.hexdigest(), ""
    if size != file.size:
        problem = f"it has {size:,} bytes, but {file.size:,} are published"
    elif file.sha256 and sha256 != file.sha256:
        problem = f"its SHA-256 is {sha256}, but {file.sha256} is published"
    elif not file.sha256 and blob.hexdigest() != file.blob_sha1:
        problem = f"its Git blob identifier is {blob.hexdigest()}, but {file.blob_sha1 or 'none'} is published"
    return problem, sha256
