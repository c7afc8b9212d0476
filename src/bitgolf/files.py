"""Atomic file writes, JSON files, and content digests."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from bitgolf.errors import CorruptFileError, UsageError

DIGEST_KEY = "digest"
"""Key of a JSON object's own digest, see `write_checked_json`."""
FOREIGN_PART_SECONDS = 24 * 3600
"""Age at which a temporary file of a process on another host is taken to be abandoned."""


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Yield a temporary file beside `path`; sync it and rename it to `path` if the block succeeds, else delete it.

    Other processes therefore see either the complete file or none. An `OSError` names `path`, not the temporary file.
    Temporary files of `path` that killed processes left behind are removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned_parts(path)
    prefix = f".{path.name}.{_host()}-{os.getpid()}."
    with _errors_name(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=".part")
    temporary = Path(name)
    try:
        with _errors_name(path):
            with os.fdopen(descriptor, "wb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


WRITE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of a write, which the system reports without the name of the file."""


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Let an `OSError` that names no file, or a temporary file of `path`, name `path`."""
    try:
        yield
    except OSError as error:
        temporary = isinstance(error.filename, str) and Path(error.filename).name.startswith(f".{path.name}.")
        if temporary or (error.filename is None and error.errno in WRITE_ERRORS):
            error.filename, error.filename2 = str(path), None
        raise


def _remove_abandoned_parts(path: Path) -> None:
    """Delete the temporary files of `path` whose writer has ended.

    A process of this host is recognized by its id. One of another host, on a shared disk, by the age of its file.
    """
    pattern = re.compile(rf"\.{re.escape(path.name)}\.([0-9a-f]{{8}})-(\d+)\..*\.part")
    with suppress(OSError):
        for part in path.parent.iterdir():
            if match := pattern.fullmatch(part.name):
                host, process = match[1], int(match[2])
                old = time.time() - part.stat().st_mtime > FOREIGN_PART_SECONDS
                if not process_exists(process) if host == _host() else old:
                    part.unlink(missing_ok=True)


def _host() -> str:
    return digest(socket.gethostname().encode())[:8]


def process_exists(process: int) -> bool:
    """Whether a process with this id exists on this host."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def move_into_place(temporary: Path, path: Path) -> None:
    """Sync a complete temporary file and rename it to `path`, in the same folder."""
    with temporary.open("rb+") as handle:
        os.fsync(handle.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable. Errors are ignored: some file systems cannot sync a folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic_write(path) as handle:
        handle.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_bytes(path, encode_json(json.dumps(value, indent=1, ensure_ascii=False) + "\n"))


def encode_json(text: str) -> bytes:
    """Encode JSON text as UTF-8. Bytes of a file name that are not UTF-8 are surrogates in Python, and become `\\udcXX`."""
    return text.encode("utf-8", "backslashreplace")


def require_file(path: Path) -> None:
    """Raise `UsageError` unless `path` is a file or a pipe: a device such as /dev/zero can be read without end."""
    if not path.exists():
        raise UsageError("no such file", where=str(path), hint="check the path")
    if not (path.is_file() or path.is_fifo()):
        kind = "a folder" if path.is_dir() else "a device"
        raise UsageError(f"expected a file, this is {kind}", where=str(path), hint="name a file")


def read_json(path: Path) -> Any:
    """Return the JSON value stored in `path`. Raises `CorruptFileError` if the file is missing or not valid JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CorruptFileError("the file is missing", where=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"not valid JSON ({error})", where=str(path)) from None


def write_checked_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with its `json_digest` under the key `digest`."""
    write_json(path, with_digest(value))


def with_digest(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with its own `json_digest` under the key `digest`."""
    plain = {key: item for key, item in value.items() if key != DIGEST_KEY}
    return {**plain, DIGEST_KEY: json_digest(plain)}


def has_own_digest(value: Any) -> bool:
    """Whether a JSON value is an object that is as `with_digest` returned it."""
    return isinstance(value, dict) and value.get(DIGEST_KEY) == with_digest(value)[DIGEST_KEY]


def read_checked_json(path: Path) -> dict[str, Any]:
    """Return a JSON object without its key `digest`. An object that never had this key is not checked.

    Raises `CorruptFileError` if the file is missing, not a JSON object, or not as its digest states.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise CorruptFileError("not a JSON object", where=str(path))
    if DIGEST_KEY in value and not has_own_digest(value):
        raise CorruptFileError("the file has changed since it was written", where=str(path))
    return {key: item for key, item in value.items() if key != DIGEST_KEY}


def digest(data: bytes) -> str:
    """Return the first 16 hexadecimal digits of SHA-256: an identifier, too short to be a defence against forgery."""
    return hashlib.sha256(data).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return the `digest` of a file's contents."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:16]


def json_digest(value: Any) -> str:
    """Return the `digest` of a JSON value. The order of keys does not matter."""
    return digest(encode_json(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)))
