"""Where the events of a watched run come from: a folder of this machine, or one of another machine by ssh."""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Protocol

from bitgolf.errors import BitgolfError, UsageError, printable
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.report.display import current_display
from bitgolf.report.follow import EventDecoder, LogFollower
from bitgolf.report.log import EVENTS_FILE
from bitgolf.runtime.folder_lock import LOCK_FILE, parse_holder, read_holder
from bitgolf.watch.state import Event, WriterProcess

REMOTE = re.compile(r"(?P<host>[^/:]+):(?P<path>.+)", re.DOTALL)
ASK_SECONDS = 10.0
"""Seconds between two questions for the process on another machine."""
RECONNECT_SECONDS = 5.0
"""Least seconds between two connections."""


class RunSource(Protocol):
    """The log of a run. name: of the run, for messages."""

    name: str

    def events(self) -> Sequence[Event]:
        """All events of the log so far; none before the run has begun."""
        ...

    def process(self) -> WriterProcess:
        """The process that writes to the run. Call it before `events`: a process that has gone has written all events."""
        ...

    def close(self) -> None:
        """Release what the source holds."""
        ...


@contextmanager
def open_source(run: str) -> Iterator[RunSource]:
    """Open the run in a folder, or `HOST:PATH` of another machine. An existing folder with a colon is a folder.

    Raises `UsageError` for a host that ssh would take for an option, and `BitgolfError` if it cannot be reached.
    """
    remote = REMOTE.fullmatch(run)
    if not remote or Path(run).exists():
        source: RunSource = FolderSource(Path(run))
    elif remote["host"].startswith("-") or not run.isprintable():
        raise UsageError(f"not the name of a host: {remote['host']!r}", where="RUN", hint="write HOST:PATH, as for scp")
    else:
        source = SshSource(remote["host"], remote["path"])
    try:
        yield source
    finally:
        source.close()


class FolderSource:
    """A run in a folder of this machine, or of a disk that several machines share."""

    def __init__(self, folder: Path) -> None:
        self.name, self._folder = str(folder), folder
        self._follower, self._restarts = LogFollower(RunFiles(folder).log), 0
        self._events = list[Event]()

    def events(self) -> Sequence[Event]:
        found = self._follower.new_events()
        if self._follower.restarts > self._restarts:
            self._restarts = self._follower.restarts
            self._events.clear()
        self._events += found
        return self._events

    def process(self) -> WriterProcess:
        holder = read_holder(self._folder)
        return WriterProcess(exists=False) if holder is None else WriterProcess(holder.exists(), str(holder))

    def close(self) -> None:
        pass


class SshSource:
    """A run in a folder of another machine, read by `cat`, `tail`, `ps` and `hostname` there.

    ssh is run with the user's own configuration. A connection that breaks is made again.
    """

    def __init__(self, host: str, path: str) -> None:
        self.name, self._host = f"{host}:{path}", host
        folder = path.removeprefix("~/").rstrip("/") or "/"  # ssh begins in the home folder
        self._log, self._lock = (shlex.quote(f"{folder}/{name}") for name in (EVENTS_FILE, LOCK_FILE))
        self._asked, self._process = -math.inf, WriterProcess(exists=None)
        self._tail: subprocess.Popen[bytes] | None = None
        self._failed = False  # whether the last try to connect again failed
        self._read_whole()
        self._follow()

    def events(self) -> Sequence[Event]:
        assert self._tail
        while not self._pieces.empty():
            self._events += self._decoder.decode(self._pieces.get())
        if self._tail.poll() is not None and time.monotonic() - self._started > RECONNECT_SECONDS:
            self._connect_again()
        return self._events

    def process(self) -> WriterProcess:
        if time.monotonic() - self._asked >= ASK_SECONDS:
            self._asked = time.monotonic()
            try:
                self._process = self._ask()
            except BitgolfError:  # `events` connects again
                self._process = WriterProcess(exists=None)
            if self._process.exists is False:
                self._connect_again()
        return self._process

    def close(self) -> None:
        if self._tail and self._tail.stdout:
            self._tail.kill()
            self._tail.wait()
            self._receiver.join(1.0)  # a process that ssh has left behind may still hold the pipe
            if not self._receiver.is_alive():
                self._tail.stdout.close()

    def _connect_again(self) -> None:
        """Read the log from its beginning, and follow it. If there is no connection, this is tried again later."""
        try:
            self._read_whole()
            self._failed = False
        except BitgolfError as error:
            if not self._failed:  # said once
                current_display().message(f"{error.message}; it is tried again")
            self._failed = True
        self._follow()

    def _ask(self) -> WriterProcess:
        content, _, host = self._run(f"cat {self._lock} 2>/dev/null; echo; hostname").rstrip(b"\n").rpartition(b"\n")
        holder = parse_holder(content.strip())
        if holder is None:
            return WriterProcess(exists=False)
        here = holder.host.encode() == host.strip()
        exists = bool(self._run(f"ps -p {holder.pid} -o pid= || true").strip()) if here else None
        return WriterProcess(exists, str(holder))

    def _read_whole(self) -> None:
        """Read the log as it is now. A log that does not exist has no events."""
        data = self._run(f"cat {self._log} 2>/dev/null || test ! -e {self._log}")
        self._decoder, self._size = EventDecoder(), len(data)
        self._events = self._decoder.decode(data)

    def _follow(self) -> None:
        """Receive what is appended to the log from now on."""
        self.close()
        self._pieces, self._started = SimpleQueue[bytes](), time.monotonic()
        command = ["ssh", "--", self._host, f"exec tail -c +{self._size + 1} -F {self._log} 2>/dev/null"]
        self._tail = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._tail.stdout
        self._receiver = threading.Thread(target=_receive, args=(self._tail.stdout, self._pieces), daemon=True)
        self._receiver.start()

    def _run(self, command: str) -> bytes:
        """Run a command on the host, and return its output. Raises `BitgolfError` if it fails."""
        try:
            done = subprocess.run(
                ["ssh", "--", self._host, command], stdin=subprocess.DEVNULL, capture_output=True, check=False
            )
        except FileNotFoundError as error:
            raise BitgolfError("there is no program ssh", where=self.name, hint="install an OpenSSH client") from error
        if done.returncode:
            said = printable(done.stderr.decode(errors="replace").strip()) or f"exit status {done.returncode}"
            raise BitgolfError(
                f"ssh failed: {said}", where=self.name, hint=f"try `ssh {self._host}`, and check the path"
            )
        return done.stdout


def _receive(stream: IO[bytes], pieces: SimpleQueue[bytes]) -> None:
    while piece := os.read(stream.fileno(), 1 << 16):
        pieces.put(piece)
