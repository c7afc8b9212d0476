"""Real lossless compression of any bytes with a model: what proves a score.

The encoder walks the text exactly as the decoder will: the same calls with the same shapes on one thread, so both see
the same floats and derive the same integer tables (24 bits, made by constriction). Lanes are parts of the text read side
by side. Symbols of all lanes go into one range-coded stream.

File: magic, version, lanes (u16), window and stride (u32), length of the text and number of tokens (u64), digest of the
model, SHA-256 prefix of the text, fingerprint of the first tables, CRC of all that and the payload; then the payload.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import constriction
import numpy as np
import torch

from bitgolf.errors import BitgolfError, DamagedError
from bitgolf.model.skeleton import LM
from bitgolf.score.stream import Reader
from bitgolf.score.windows import Method
from bitgolf.tokens.tokenizer import Tokenizer

MAGIC = b"BGZ1"
HEAD = struct.Struct("<4sBHIIQQ8s16s4s")  # then CRC-32 (u32) of the header's rest and the payload
MIN_LANE, MAX_LANES = 4096, 16
_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]  # made when it is imported
CATEGORICAL = _stream.model.Categorical(perfect=False)

Progress = Callable[[int, int], None]  # tokens done, tokens in all


class Codec(NamedTuple):
    """What encoder and decoder share: the model, its tokenizer, its digest (8 bytes) and the contexts to use."""

    model: LM
    tokenizer: Tokenizer
    digest: bytes
    method: Method


class Compressed(NamedTuple):
    data: bytes
    bits: float  # predicted: the sum of -log2 p over all tokens
    tokens: int


def compress(codec: Codec, data: bytes, progress: Progress | None = None) -> Compressed:
    """Code any bytes. `decompress` with the same artifact restores them exactly."""
    ids = codec.tokenizer.encode(data).astype(np.int64)
    lanes = max(1, min(MAX_LANES, len(ids) // MIN_LANE))
    encoder = _stream.queue.RangeEncoder()
    bits, fingerprint = 0.0, bytes(4)
    table = _lanes(ids, lanes)
    with _one_thread():
        for t, live, probabilities, reader in _walk(codec, len(ids), lanes):
            if t == 0:
                fingerprint = _fingerprint(probabilities)
            symbols = table[:live, t]
            encoder.encode(symbols.astype(np.int32), CATEGORICAL, probabilities)
            bits -= float(np.log2(probabilities[np.arange(live), symbols].astype(np.float64)).sum())
            reader.push(torch.from_numpy(table[:, t]))
            if progress:
                progress(min((t + 1) * lanes, len(ids)), len(ids))
    payload = encoder.get_compressed().astype("<u4").tobytes()
    sha = hashlib.sha256(data).digest()[:16]
    window, stride = codec.method.window, codec.method.stride
    head = HEAD.pack(MAGIC, 1, lanes, window, stride, len(data), len(ids), codec.digest, sha, fingerprint)
    return Compressed(head + struct.pack("<I", zlib.crc32(payload, zlib.crc32(head))) + payload, bits, len(ids))


def decompress(codec: Codec, data: bytes, progress: Progress | None = None) -> bytes:
    """The bytes that `compress` was given. A damaged file or another model is an error, never other bytes."""
    head, payload = _checked(data)
    _, _, lanes, window, stride, length, count, digest, sha, fingerprint = HEAD.unpack(head)
    if digest != codec.digest:
        raise BitgolfError(
            "the file was compressed with another model", place=f"model {digest.hex()}", mend="use that artifact"
        )
    codec = codec._replace(method=_contexts(window, stride))
    _plausible(lanes, count, length, len(payload), codec.tokenizer)
    decoder = _stream.queue.RangeDecoder(np.frombuffer(payload, "<u4").astype(np.uint32))
    table = np.zeros((lanes, math.ceil(count / lanes)), np.int64)
    with _one_thread():
        for t, live, probabilities, reader in _walk(codec, count, lanes):
            if t == 0 and _fingerprint(probabilities) != fingerprint:
                raise BitgolfError(
                    "this machine computes other probabilities than the one that compressed the file",
                    mend="decompress with the same torch version on the same kind of processor",
                )
            table[:live, t] = _decoded(decoder, probabilities)
            reader.push(torch.from_numpy(table[:, t]))
            if progress:
                progress(min((t + 1) * lanes, count), count)
    text = codec.tokenizer.decode(_unlanes(table, count))
    if len(text) != length or hashlib.sha256(text).digest()[:16] != sha:
        raise DamagedError("the decoded text is not the one that was compressed; nothing was written")
    return text


def _decoded(decoder: Any, probabilities: np.ndarray) -> np.ndarray:
    try:
        return decoder.decode(CATEGORICAL, probabilities)
    except (AssertionError, ValueError) as error:  # what constriction raises where no symbol fits
        raise DamagedError(f"the compressed data does not decode ({error})") from None


# ---- the walk that both sides take -----------------------------------------------------------------------------


def _walk(codec: Codec, count: int, lanes: int) -> Iterator[tuple[int, int, np.ndarray, Reader]]:
    """(time, lanes that still have a token, their probabilities (live, V), reader) for every time step."""
    if not count:
        return
    reader = Reader(codec.model, lanes, codec.method.window, codec.method.stride)
    long, rest = divmod(count, lanes)
    for t in range(long + (rest > 0)):
        live = lanes if t < long else rest
        probabilities = torch.softmax(reader.logits[:live], -1)
        yield t, live, probabilities.numpy(), reader


def _lanes(ids: np.ndarray, lanes: int) -> np.ndarray:
    """(lanes, steps): contiguous parts, the first ones a token longer where it does not divide; zeros behind."""
    long, rest = divmod(len(ids), lanes)
    table = np.zeros((lanes, long + (rest > 0)), np.int64)
    for lane, part in enumerate(np.array_split(ids, lanes)):
        table[lane, : len(part)] = part
    return table


def _unlanes(table: np.ndarray, count: int) -> np.ndarray:
    long, rest = divmod(count, len(table))
    return np.concatenate([row[: long + (lane < rest)] for lane, row in enumerate(table)])


def _fingerprint(probabilities: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(probabilities).tobytes()).digest()[:4]


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread: the order of every sum is then fixed, and small products run no slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# ---- what a hostile or damaged file may say --------------------------------------------------------------------


def _checked(data: bytes) -> tuple[bytes, bytes]:
    if len(data) < HEAD.size + 4 or data[:4] != MAGIC:
        raise DamagedError("this is not a file that bitgolf compressed, or it is cut short")
    head, payload = data[: HEAD.size], data[HEAD.size + 4 :]
    (crc,) = struct.unpack("<I", data[HEAD.size : HEAD.size + 4])
    if zlib.crc32(payload, zlib.crc32(head)) != crc:
        raise DamagedError("the compressed file is damaged: its checksum does not match")
    if head[4] != 1 or len(payload) % 4:
        raise DamagedError(f"version {head[4]} of the compressed format is not known here")
    return head, payload


def _contexts(window: int, stride: int) -> Method:
    if not 1 <= stride <= window <= 1 << 16:
        raise DamagedError(f"the compressed file names an impossible window ({window}, {stride})")
    method = Method()
    method.name, method.window, method.stride, method.opening = "coder", window, stride, window
    return method


def _plausible(lanes: int, count: int, length: int, payload: int, tokenizer: Tokenizer) -> None:
    """Refuse counts that no honest encoder writes, before any work is done for them.

    In a table of 24 bits every one of V tokens has at least 1, so the likeliest still costs about V / 2^24 nats.
    """
    longest = int(tokenizer.byte_lengths.max())
    most = (8 * payload + 64) / (tokenizer.vocab / 2**24)
    if (
        not 1 <= lanes <= MAX_LANES
        or not count <= length <= count * longest
        or payload > 8 * count + 64
        or count > most
    ):
        raise DamagedError("the compressed file's header does not fit its contents")
