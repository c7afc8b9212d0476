"""A process of a group other than the first: it starts workers as the first process asks, and ends with it."""

from __future__ import annotations

import platform
import signal
import threading
from pathlib import Path
from queue import SimpleQueue

import torch

from bitgolf import __version__
from bitgolf.errors import BitgolfError, Interrupted, describe_os_error
from bitgolf.report.display import current_display
from bitgolf.runtime.hosts.channel import (
    ANY,
    Channel,
    Exists,
    Failed,
    Finished,
    Found,
    Hello,
    Missing,
    Provide,
    SentFile,
    Signalled,
    Start,
    Stop,
    WorkerEnded,
    connect,
)
from bitgolf.runtime.hosts.copies import HostCopies
from bitgolf.runtime.hosts.outcome import ended_worker, lost
from bitgolf.runtime.hosts.place import Place
from bitgolf.runtime.hosts.workers import start_worker
from bitgolf.runtime.job_files import error_fields
from bitgolf.runtime.signals import signals_to
from bitgolf.runtime.worker_process import WorkerProcess

KILL_SECONDS = 5.0
"""Longest wait for a worker that was killed: it may be reading from a disk that does not answer."""


def introduction(place: Place) -> Hello:
    """What the first process must know of this one."""
    versions = f"bitgolf {__version__}, torch {torch.__version__}"
    leads = place.local_rank == 0
    return Hello(place.rank, place.host, platform.node(), leads, versions, torch.cuda.device_count())


def follow(place: Place, shards: Path | None) -> int:
    """Do what the first process asks until it has ended; returns its exit status.

    shards: the folder that the command of this host names. Raises `BitgolfError` on one process if the first one
    cannot be reached, or ends without a message.
    """
    hello = introduction(place)
    follower = Follower(place, connect(place, hello), shards)
    if hello.leads and place.host:
        current_display().message(
            f"host {place.host} ({hello.name}) has joined; host 0 ({place.address}) shows progress and result"
        )
    try:
        with signals_to(lambda number: follower.events.put(Signalled(number))):
            return follower.serve()
    finally:
        follower.close()


class Follower:
    """Answers to the first process. events: its messages, the ends of workers, signals; None when it has ended."""

    def __init__(self, place: Place, channel: Channel, shards: Path | None) -> None:
        self.place, self.events = place, SimpleQueue[ANY | None]()
        self._channel, self._shards = channel, shards
        self._copies: HostCopies | None = None
        self._worker: WorkerProcess | None = None
        self._waiting: threading.Thread | None = None  # for the end of the worker
        self._failed: BitgolfError | None = None  # to receive a file
        threading.Thread(target=self._listen, daemon=True).start()

    def serve(self) -> int:
        """Handle events until the command has ended; returns its exit status."""
        signalled = False
        while (event := self.events.get()) is not None:
            if isinstance(event, Finished):
                return event.status
            if isinstance(event, Provide):
                self._send(self._provide(event))
            elif isinstance(event, Exists):
                self._send(Found(Path(event.path).exists()))
            elif isinstance(event, Start):
                self._start(Path(event.folder), event.port)
            elif isinstance(event, Stop):
                self._signal(event.signal)
            elif isinstance(event, Signalled):
                signalled = True
                self._send(event)
            elif isinstance(event, WorkerEnded):
                self._worker = None
                self._send(event)
        if self.place.rank == 1 and not signalled:
            raise lost(0, self.place.size, f"host 0 ({self.place.address})")
        return Interrupted.exit_code if signalled else 1

    def close(self) -> None:
        """End the worker, remove the copies of files, and leave the group."""
        self._signal(signal.SIGKILL)
        if self._waiting:
            self._waiting.join(KILL_SECONDS)
        if self._copies:
            self._copies.remove()
        self._channel.close()

    def _provide(self, request: Provide) -> ANY:
        try:
            if self._failed:
                raise self._failed
            if self._copies is None:
                self._copies = HostCopies(self._shards)
            return Missing(str(self._copies.folder), self._copies.provide(request.inputs))
        except OSError as error:
            return Failed(error_fields(describe_os_error(error)))
        except BitgolfError as error:
            return Failed(error_fields(error))

    def _start(self, folder: Path, port: int) -> None:
        worker = self._worker = start_worker(self.place, folder, port)

        def wait() -> None:
            self.events.put(ended_worker(self.place.rank, folder, *worker.wait()))

        self._waiting = threading.Thread(target=wait, daemon=True)
        self._waiting.start()

    def _signal(self, number: int) -> None:
        if self._worker:
            self._worker.send_signal(number)

    def _send(self, message: ANY) -> None:
        try:
            self._channel.send(message)
        except EOFError:  # the listening thread has noticed it, too
            return

    def _listen(self) -> None:
        """Receive what the first process sends until it ends. Runs in a thread."""
        while True:
            try:
                message = self._channel.receive()
                if isinstance(message, SentFile):
                    self._receive_file(message)
                else:
                    self.events.put(message)
            except EOFError:
                self.events.put(None)
                return

    def _receive_file(self, announced: SentFile) -> None:
        """Save a file; an error is reported with the next answer."""
        assert self._copies
        try:
            self._channel.receive_file(announced, self._copies.path(announced.name))
        except OSError as error:
            self._failed = describe_os_error(error)
