"""The transfer of one file: resumed after an interruption, verified, and only then given its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bitgolf.data.hub.client import HubClient
from bitgolf.data.hub.record import content_problem
from bitgolf.data.hub.retries import InterruptedTransfer, is_transient, status_of
from bitgolf.data.hub.selection import RemoteFile, shard_split
from bitgolf.data.shards import read_shard
from bitgolf.errors import CorruptFileError
from bitgolf.files import move_into_place


class _WrongContent(Exception):
    """The server sent a file that is not the published one."""


def partial_path(target: Path, file: RemoteFile) -> Path:
    """Return where the bytes of a file are collected: hidden beside `target`, with the start of the file's digest.

    Bytes of another version of the file are therefore never continued.
    """
    return target.with_name(f".{target.name}.{(file.sha256 or file.blob_sha1)[:12]}.part")


class FileTransfer:
    """Fetches files of a repository at one commit.

    received: called with the number of bytes after each piece of a transfer; negative if bytes are discarded.
    """

    def __init__(self, client: HubClient, repository: str, commit: str, received: Callable[[int], object]) -> None:
        self.client, self.repository, self.commit, self.received = client, repository, commit, received

    def fetch(self, file: RemoteFile, target: Path) -> str:
        """Fetch a file to `target` and return its SHA-256. Bytes of an earlier, interrupted call are continued.

        Content that differs from the published size or digest is deleted and fetched once more from its start. Raises
        `CorruptFileError` if it differs again or is not a shard, `BitgolfError` if the server does not answer, and
        `OSError` if the disk is full; the bytes that arrived are then kept.
        """
        part, where = partial_path(target, file), f"{self.repository}:{file.path}"
        for last in (False, True):
            try:
                self._complete(part, file, where)
                problem, sha256 = content_problem(part, file)
            except _WrongContent as error:
                problem, sha256 = str(error), ""
            if not problem:
                break
            self._discard(part)
            if last:
                hint = "the server or a proxy alters it: unset HF_ENDPOINT if it is set, or run the command again later"
                raise CorruptFileError(f"fetched twice and deleted: {problem}", where=where, hint=hint)
            self.client.log.info(f"{where}: {problem}; deleted, fetched again")
        self._check_shard(part, file, where)
        move_into_place(part, target)
        return sha256

    def _complete(self, part: Path, file: RemoteFile, where: str) -> None:
        """Append to the partial file until it has the published size."""
        if part.exists() and part.stat().st_size > file.size:
            self._discard(part)
        part.touch()
        retries = self.client.retries()
        while (start := part.stat().st_size) < file.size:
            try:
                self._append(part, file, start)
            except Exception as error:
                if not isinstance(error, InterruptedTransfer) and not self.client.is_http_error(error):
                    raise
                if status_of(error) == 416:
                    raise _WrongContent(
                        f"the server has fewer than the {file.size:,} bytes that are published"
                    ) from None
                if not is_transient(error):
                    raise self.client.translate(error, self.repository, self.commit, file.path) from error
                if part.exists() and part.stat().st_size > start:
                    retries.progressed()
                retries.after(error, where)
                part.touch()

    def _append(self, part: Path, file: RemoteFile, start: int) -> None:
        """Append what one response sends. Raises `InterruptedTransfer` if it ends early."""
        with self.client.open_stream(self.repository, self.commit, file.path, start) as response:
            if start and response.status_code == 200:
                self._discard(part)  # the server sends the whole file, whatever was asked for
                start = 0
            _check_range(response, start, file.size)
            with part.open("ab", buffering=0) as handle:
                for piece in response.iter_bytes():
                    if handle.tell() + len(piece) > file.size:
                        raise _WrongContent(f"the server sends more than the {file.size:,} bytes that are published")
                    _write_all(handle, piece)
                    self.received(len(piece))
                size = handle.tell()
        if size < file.size:
            raise InterruptedTransfer(f"it ended after {size:,} of {file.size:,} bytes")

    def _discard(self, part: Path) -> None:
        if part.exists():
            self.received(-part.stat().st_size)
            part.unlink()

    def _check_shard(self, part: Path, file: RemoteFile, where: str) -> None:
        """Verify the header of a shard. A file that is as published and is no shard is deleted: repetition is no use."""
        if not shard_split(file.name):
            return
        try:
            read_shard(part)
        except CorruptFileError as error:
            self._discard(part)
            hint = "the repository publishes it like this; choose another folder or revision"
            raise CorruptFileError(f"deleted: {error.message}", where=where, hint=hint) from error


def _check_range(response: Any, start: int, size: int) -> None:
    """Raise `_WrongContent` if the headers of a response announce another part, or another size of the file."""
    headers = response.headers
    if response.status_code == 206:
        first, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if first.partition("-")[0] != str(start) or total not in ("*", str(size)):
            stated = headers.get("Content-Range", "no Content-Range")
            raise _WrongContent(f"the server sends {stated!r} instead of bytes {start}- of {size}")
    elif "Content-Encoding" not in headers and headers.get("Content-Length", str(size)) != str(size):
        raise _WrongContent(f"the server sends {headers['Content-Length']} bytes, but {size} are published")


def _write_all(handle: Any, data: bytes) -> None:
    """Write all bytes to an unbuffered file, which may accept only some of them when the disk is nearly full."""
    rest = memoryview(data)
    while rest:
        rest = rest[handle.write(rest) :]
