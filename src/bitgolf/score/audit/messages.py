"""Messages between an audit and the process that runs a foreign evaluation: MessagePack of fixed types, never pickles.

Integers are sent as the bytes of int64 arrays, bits as those of float64 arrays.
"""

from __future__ import annotations

import io
from typing import TypeVar

import msgspec
import numpy as np

from bitgolf.score.audit.evaluation import Floats, Ints

LENGTH_BYTES = 8
LARGEST_MESSAGE = 1 << 34


class WorkerTask(msgspec.Struct, tag=True, omit_defaults=True):
    """A request. call: "facts", "encode", "decode", "run", or "score", which follows a run that is ready.

    documents: raw, or the tokens of each for "decode". build, warm_up, scoring, training, raw_bytes, distribution_targets:
    as in `EvaluationRequest`; the text to score is sent only when the warm-up is over.
    """

    call: str
    documents: list[bytes] = []
    build: bytes = b""
    warm_up: bytes = b""
    scoring: bytes = b""
    training: bytes = b""
    raw_bytes: int = 0
    distribution_targets: list[int] = []


class WorkerAnswer(msgspec.Struct, tag=True, omit_defaults=True):
    """The answer to a request. error: of the evaluation, in one line; empty if it succeeded.

    ready: whether it waits for the text to score. missing_limits: of `apply_limits`, in the first answer.
    """

    error: str = ""
    ready: bool = False
    missing_limits: dict[str, str] = {}
    isolated: bool = False
    vocab: int = 0
    bos: int = 0
    documents: list[bytes] = []
    positions: bytes = b""
    bits: bytes = b""
    counted_bytes: int = 0
    side_bits: float = 0.0
    distributions: dict[int, bytes] = {}
    reads: list[tuple[str, int, int]] = []


Message = TypeVar("Message", WorkerTask, WorkerAnswer)


def framed(message: WorkerTask | WorkerAnswer) -> bytes:
    """A message after its length."""
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(LENGTH_BYTES, "little") + data


def unframed(data: bytes, kind: type[Message]) -> Message:
    """The message. Raises `msgspec.DecodeError` if it is malformed."""
    return msgspec.msgpack.decode(data, type=kind)


def receive(source: io.RawIOBase | io.BufferedIOBase, kind: type[Message]) -> Message | None:
    """The next message; None at the end of the stream."""
    head = source.read(LENGTH_BYTES)
    if not head or len(head) < LENGTH_BYTES:
        return None
    data = source.read(int.from_bytes(head, "little"))
    return unframed(data or b"", kind)


def ints(data: bytes) -> Ints:
    """The int64 array of these bytes. Raises `ValueError` if their number is wrong."""
    return np.frombuffer(data, np.int64)


def floats(data: bytes) -> Floats:
    """The float64 array of these bytes. Raises `ValueError` if their number is wrong."""
    return np.frombuffer(data, np.float64)
