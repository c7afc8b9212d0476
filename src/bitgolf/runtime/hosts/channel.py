"""Messages between the first process of a group and the others, over one TCP connection for each.

A connection ends when one of its processes ends, however it ends; so no process waits for one that is gone. A message
is JSON; pieces of a file follow the message that announces it as plain bytes. Nothing is unpickled.
"""

from __future__ import annotations

import hmac
import os
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec
from torch.distributed import TCPStore

from bitgolf.errors import BitgolfError
from bitgolf.runtime.hosts.inputs import HostInputs
from bitgolf.runtime.hosts.place import Place

JOIN_SECONDS = 600.0
"""Longest wait for processes that have not joined: they import torch, perhaps from a slow network disk."""
PIECE_BYTES = 1 << 23
SOCKET_OPTIONS = {
    "TCP_NODELAY": 1,
    "SO_KEEPALIVE": 1,
    "TCP_KEEPIDLE": 30,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 6,
    "TCP_USER_TIMEOUT": 90_000,
}
"""Small messages are not held back, and a host that is cut off is noticed after 90 seconds, also while data is sent."""
GREETING_BYTES = 1 << 16
"""Largest first message that is read from a process that may not belong to the group."""
_KEY = "bitgolf/connection"
"""Key in the store of torch under which the first process publishes the port that it listens on."""


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base class of messages."""


class Hello(Message, frozen=True):
    """A process joins. host: number of its host; name: of its host; leads: whether it is the first of its host.

    versions: of Bitgolf and PyTorch. gpus: number of GPUs that it sees. secret: what the first process has published.
    """

    rank: int
    host: int
    name: str
    leads: bool
    versions: str
    gpus: int
    secret: str = ""


class Provide(Message, frozen=True):
    """To the first process of each host: prepare the files that the next job reads, and answer with `Missing`."""

    inputs: HostInputs


class Exists(Message, frozen=True):
    """To the first process of each host: is there a file at this path? It answers with `Found`."""

    path: str


class Found(Message, frozen=True):
    """The answer to `Exists`."""

    found: bool


class Missing(Message, frozen=True):
    """The files that this host does not have; the first process sends them. folder: where it keeps the copies."""

    folder: str
    names: tuple[str, ...]


class SentFile(Message, frozen=True):
    """A file of `size` bytes follows, for `name` in the folder of copies."""

    name: str
    size: int


class Start(Message, frozen=True):
    """Start a worker for the job in a folder. port: of the first process's host, where the workers find each other."""

    folder: str
    port: int


class Stop(Message, frozen=True):
    """Send a signal to the worker, if one is running."""

    signal: int


class WorkerEnded(Message, frozen=True):
    """A worker has ended. error: what it reported, as in `job_files.error_fields`. lines: the last that it printed."""

    rank: int
    status: int
    error: dict[str, Any] | None = None
    traceback: str = ""
    lines: tuple[str, ...] = ()


class Failed(Message, frozen=True):
    """A process cannot do what the first process asked for."""

    error: dict[str, Any]


class Signalled(Message, frozen=True):
    """A process has received a signal that asks it to stop."""

    number: int


class Finished(Message, frozen=True):
    """The command has ended, with this exit status."""

    status: int


ANY = Hello | Provide | Exists | Found | Missing | SentFile | Start | Stop | WorkerEnded | Failed | Signalled | Finished
_DECODER: msgspec.json.Decoder[ANY] = msgspec.json.Decoder(ANY)


class Channel:
    """A connection to another process. `send` may be called by several threads, `receive` by one."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._sending = connection, Lock()
        with socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as same:
            for name, value in SOCKET_OPTIONS.items():
                level = socket.SOL_SOCKET if name.startswith("SO_") else socket.IPPROTO_TCP
                if hasattr(socket, name):
                    same.setsockopt(level, getattr(socket, name), value)

    def send(self, message: ANY) -> None:
        """Send a message. Raises `EOFError` if the other process has ended."""
        with self._sending:
            self._write(msgspec.json.encode(message))

    def send_file(self, name: str, path: Path) -> None:
        """Send a file, which the other process saves as `name`."""
        with path.open("rb") as handle, self._sending:
            left = os.fstat(handle.fileno()).st_size
            self._write(msgspec.json.encode(SentFile(name, left)))
            while left:
                if not (piece := handle.read(min(PIECE_BYTES, left))):
                    raise BitgolfError("the file was shortened while it was sent to another host", where=str(path))
                self._write(piece)
                left -= len(piece)

    def receive(self, most: int | None = None) -> ANY:
        """The next message, of at most so many bytes. Raises `EOFError` if the other process has ended."""
        return _DECODER.decode(self._receive_bytes(most))

    def receive_file(self, announced: SentFile, path: Path) -> None:
        """Save the file that a message announced. Receives all of it, also if it cannot be saved (`OSError`)."""
        left = announced.size
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as handle:
                while left:
                    piece = self._receive_bytes()
                    left -= len(piece)
                    handle.write(piece)
        except OSError:
            while left > 0:
                left -= len(self._receive_bytes())
            raise

    def close(self) -> None:
        self._connection.close()

    def _receive_bytes(self, most: int | None = None) -> bytes:
        try:
            return self._connection.recv_bytes(most)
        except OSError as error:
            raise EOFError from error

    def _write(self, data: bytes) -> None:
        try:
            self._connection.send_bytes(data)
        except OSError as error:
            raise EOFError from error


def connect(place: Place, hello: Hello) -> Channel:
    """Connect to the first process, whose address is in the store of torch, and introduce this one."""
    try:
        port, secret = store(place).get(_KEY).decode().split()
        channel = Channel(Client((place.address, int(port))))
        channel.send(msgspec.structs.replace(hello, secret=secret))
    except (OSError, EOFError, RuntimeError) as error:
        raise _unreachable(place) from error
    return channel


def publish(place: Place, listener: Listener, secret: str) -> TCPStore:
    """Publish the port of a listener. The others find it as long as the store that this returns exists."""
    try:
        shared = store(place)
        shared.set(_KEY, f"{listener.address[1]} {secret}")
    except RuntimeError as error:
        raise _unreachable(place) from error
    return shared


def listener_for(place: Place) -> Listener:
    """A listener on a free port: of the loopback device if that is the address of the group, otherwise of all."""
    loopback = place.address in ("localhost", "127.0.0.1")
    return Listener(("127.0.0.1" if loopback else "", 0), "AF_INET", backlog=place.size)


def accept_members(listener: Listener, secret: str, joined: Callable[[Channel, Hello], None]) -> None:
    """Call `joined` for each process that introduces itself with the secret, in a thread, until the listener is closed.

    Others are turned away. One that connects and says nothing holds up nobody.
    """

    def greet(connection: Connection) -> None:
        try:
            channel = Channel(connection)
            hello = channel.receive(GREETING_BYTES)
        except (EOFError, OSError, msgspec.MsgspecError):
            connection.close()
            return
        if isinstance(hello, Hello) and hmac.compare_digest(hello.secret, secret):
            joined(channel, hello)
        else:
            connection.close()

    while True:
        try:
            connection = listener.accept()
        except OSError:  # the listener was closed
            return
        threading.Thread(target=greet, args=(connection,), daemon=True).start()


def store(place: Place) -> TCPStore:
    """A connection to the store of torch at the group's address: that of torchrun, otherwise of the first process."""
    own = place.rank == 0 and place.variables.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    limit = timedelta(seconds=JOIN_SECONDS)
    port = int(place.variables["MASTER_PORT"])
    return TCPStore(place.address, port, None, own, timeout=limit, wait_for_workers=False)


def _unreachable(place: Place) -> BitgolfError:
    return BitgolfError(
        f"process {place.rank} of {place.size} cannot reach the first one",
        where=f"{place.address}:{place.variables['MASTER_PORT']}",
        hint="check that the first process runs, and that its host accepts connections of the other hosts",
    )
