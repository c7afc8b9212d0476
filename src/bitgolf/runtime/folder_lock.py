"""One writer per folder: a lock file that names its holder and is locked with `flock`.

The operating system releases the lock when the process ends, however it ends, so a lock file that is left behind by a
killed process is recognized: it can be locked. On file systems without `flock` (some of NFS), the contents of the file
decide: a holder on this host counts if its process exists, a holder on another host always does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from bitgolf.errors import BitgolfError, describe_os_error
from bitgolf.files import process_exists

LOCK_FILE = ".lock"
_ATTEMPTS = 20  # the file may be removed by its holder between opening and locking it
_NO_FLOCK = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class LockHolder(msgspec.Struct, frozen=True):
    """Contents of a lock file: the process that writes to the folder, its host, and when it began (UTC)."""

    pid: int
    host: str
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started}"

    def exists(self) -> bool | None:
        """Whether the process exists; None for one on another host, of which that is not known."""
        return process_exists(self.pid) if self.host == socket.gethostname() else None

    def may_run(self) -> bool:
        """Whether the process may still exist."""
        return self.exists() is not False


class _HeldLock(NamedTuple):
    """A locked file: its descriptor, and the contents and times that a killed process left, None for a new file."""

    path: Path
    descriptor: int
    left: tuple[bytes, os.stat_result] | None


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to `folder`, which is made if it does not exist.

    If the block raises an exception, no trace of the lock is left: folders that were made are removed if they are empty.
    Raises `BitgolfError` if another process holds the lock, with its pid and host, or if the folder cannot be written.
    """
    made: list[Path] = []
    try:
        held = _acquire(folder, made)
        failed = True
        try:
            _write_holder(held.descriptor)
            yield
            failed = False
        finally:
            _release(held, failed=failed)
    finally:
        for path in reversed(made):
            with suppress(OSError):  # it is not empty
                path.rmdir()


def _acquire(folder: Path, made: list[Path]) -> _HeldLock:
    """Lock the file. made: receives the folders that were made."""
    path = folder / LOCK_FILE
    try:
        for _ in range(_ATTEMPTS):
            _make_folders(folder, made)
            with suppress(FileNotFoundError):  # the holder removed the file or the folder meanwhile
                if held := _lock(path):
                    return held
    except OSError as error:
        described = describe_os_error(error)
        described.message, described.where = f"cannot write to the folder: {described.message}", str(folder)
        described.hint = described.hint or "choose another folder, or mend the cause"
        raise described from error
    raise _held_by(folder, None)


def _make_folders(folder: Path, made: list[Path]) -> None:
    """Make a folder and its parents; add those that did not exist to `made`, the outermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    made += [path for path in reversed(missing) if path not in made]


def _lock(path: Path) -> _HeldLock | None:
    """Lock the file at `path`; None if it is no longer there when it is locked."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        status, content = os.fstat(descriptor), os.pread(descriptor, 4096, 0)
        if not _flock(descriptor, content):
            raise _held_by(path.parent, parse_holder(content))
        if os.fstat(descriptor).st_nlink and path.stat().st_ino == status.st_ino:
            return _HeldLock(path, descriptor, (content, status) if content else None)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _flock(descriptor: int, content: bytes) -> bool:
    """Lock an open file without waiting; returns whether that succeeded. content: of the file, if flock does not work."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        holder = parse_holder(content)
        return not (holder and holder.may_run())
    return True


def read_holder(folder: Path) -> LockHolder | None:
    """The process that a folder's lock file names; None without a lock file, or if it names none. Nothing is locked."""
    try:
        return parse_holder((folder / LOCK_FILE).read_bytes())
    except OSError:
        return None


def parse_holder(content: bytes) -> LockHolder | None:
    """The holder that a lock file names; None if it names none."""
    try:
        return msgspec.json.decode(content, type=LockHolder)
    except (ValueError, msgspec.MsgspecError):
        return None


def _held_by(folder: Path, holder: LockHolder | None) -> BitgolfError:
    known = f": {holder}" if holder and holder.may_run() else ""
    hint = "wait until it has finished, or choose another folder"
    if holder and holder.host != socket.gethostname():
        hint += f"; if nothing runs on {holder.host} any more, remove {folder / LOCK_FILE}"
    return BitgolfError(f"another process is writing to this folder{known}", where=str(folder), hint=hint)


def _write_holder(descriptor: int) -> None:
    started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    _replace(descriptor, msgspec.json.encode(LockHolder(os.getpid(), socket.gethostname(), started)))


def _replace(descriptor: int, content: bytes) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)


def _release(held: _HeldLock, *, failed: bool) -> None:
    """Remove the file, or restore what was in it if the block failed."""
    with suppress(OSError):
        if failed and held.left:
            content, status = held.left
            _replace(held.descriptor, content)
            os.utime(held.path, ns=(status.st_atime_ns, status.st_mtime_ns))
        else:
            held.path.unlink()
    os.close(held.descriptor)
