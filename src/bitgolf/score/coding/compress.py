"""Real lossless compression with a model: what proves a score.

Documents are coded by one walk that encoder and decoder share (`walk`): the same calls with the same shapes on one
thread, so both see the same floats and derive the same integer tables (24 bits, made by constriction). The end of a
document is coded as BOS. The bits predicted are those of the referee's score of the documents with the same method,
isolated. The model runs on the CPU in float32, wherever it was trained or scored.

    magic and version | CRC-32 of all that follows | numbers (LEB128): method (0: windows of which the next two are
    window and stride; i: the artifact's i-th method), rows, documents, tokens (ends included), bytes, seals
    | digest of the model, 8 bytes | SHA-256 of the documents, 8 bytes | seals | payload

A seal is a byte of the CRC-32 of all tables since the one before: where a decoder computes other probabilities, it is
stopped there and told where. Seals stand after 64, 128, … 16,384 tokens, then every 16,384, and at the end.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import constriction
import numpy as np

from bitgolf.errors import BitgolfError, DamagedError, UsageError
from bitgolf.model.lm import LM
from bitgolf.pack.frequency_tables import leb128, read_leb128
from bitgolf.score.coding.predictor import Seals, Symbols, Walk, can_walk, check_method, walking
from bitgolf.score.methods import Contiguous, Method, Sliding
from bitgolf.tokens.tokenizer import Ids, Tokenizer

MAGIC = b"BGZ\x02"
NUMBERS = 6  # that every header has
MOST_ROWS, MOST_POSITIONS = 1 << 12, 1 << 20  # side by side, and in their windows together: what memory must hold
PART, MOST_PARTS = 16_384, 16  # bytes of a file that are worth a row of their own
FLOOR = 2.0**-24  # of a probability, as tables round it
_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]  # made when it is imported
CATEGORICAL = _stream.model.Categorical(perfect=False)

Progress = Callable[[int, int, float], None]  # tokens done, tokens in all, bits so far


class Codec(NamedTuple):
    """What encoder and decoder share: the model, its tokenizer, its digest (8 bytes) and the artifact's methods."""

    model: LM
    tokenizer: Tokenizer
    digest: bytes
    methods: Sequence[Method]


class Compressed(NamedTuple):
    data: bytes
    bits: float  # predicted: the sum of -log2 p over all tokens and ends
    tokens: int


def usual_method(methods: Sequence[Method]) -> Method:
    """The last of an artifact's methods that can be coded: the best score that can be proved. Else plain blocks."""
    return next((m for m in reversed(methods) if can_walk(m)), Contiguous(window=methods[-1].window))


def parts(codec: Codec, data: bytes) -> list[Ids]:
    """A file as up to 16 documents, cut at ends of lines where there are any near."""
    count = max(1, min(MOST_PARTS, len(data) // PART))
    near = [len(data) * i // count for i in range(1, count)]
    cuts = [0, *(data.find(b"\n", at, at + PART // 4) + 1 or at for at in near), len(data)]
    return codec.tokenizer.encode_documents([data[a:b] for a, b in pairwise(cuts)])


def compress(
    codec: Codec, documents: Sequence[Ids], *, method: Method, rows: int = 64, progress: Progress | None = None
) -> Compressed:
    """Code documents, tokens without BOS. `decompress` with the same artifact restores their bytes, and their borders.

    rows: documents side by side. Raises `UsageError` where the method's probabilities cannot be had one document alone.
    """
    bos, count = codec.model.bos, sum(len(d) + 1 for d in documents)
    if any((d == bos).any() for d in documents):
        raise UsageError("a document holds the token that ends documents", place="compress")
    numbers = method_numbers(codec, method)
    rows = _rows(method, rows, len(documents))
    _check_size(rows, method)
    ended = [np.append(d, bos).astype(np.int32) for d in documents]
    encoder, seals = _stream.queue.RangeEncoder(), Seals()

    def encode(walk: Walk, tables: np.ndarray) -> Symbols:
        symbols = np.array([ended[row.document][row.known] for _, row in walk.asking], np.int32)
        encoder.encode(symbols, CATEGORICAL, tables)
        return symbols

    task = Task(codec, method, len(documents), rows, count)
    bits = _walk(task, encode, seals, progress) if documents else 0.0
    texts = [codec.tokenizer.decode(d) for d in documents]
    numbers += [rows, len(documents), count, sum(map(len, texts)), len(seals.data)]
    body = b"".join(map(leb128, numbers)) + codec.digest + _sha(texts) + bytes(seals.data)
    body += encoder.get_compressed().astype("<u4").tobytes()
    return Compressed(MAGIC + zlib.crc32(body).to_bytes(4, "little") + body, bits, count)


def decompress(codec: Codec, data: bytes, progress: Progress | None = None) -> list[bytes]:
    """The documents that `compress` was given. A damaged file or another model is an error, never other bytes."""
    head = _read_head(codec, data)
    found: dict[int, list[int]] = {}
    decoder, spent = _stream.queue.RangeDecoder(np.frombuffer(head.payload, "<u4").astype(np.uint32)), 0.0

    def decode(walk: Walk, tables: np.ndarray) -> Symbols:
        nonlocal spent
        symbols = _decoded(decoder, tables)
        spent -= float(np.log2(tables[np.arange(len(symbols)), symbols].astype(np.float64) + FLOOR).sum())
        if spent > 8 * len(head.payload) + 64:
            raise DamagedError("more is decoded than the file can hold")
        for (_, row), symbol in zip(walk.asking, symbols.tolist(), strict=True):
            found.setdefault(row.document, []).append(symbol)
        return symbols

    if head.task.documents:
        _walk(head.task, decode, Seals(head.seals), progress)
    texts = [codec.tokenizer.decode(found[i][:-1]) for i in range(head.task.documents)]
    if sum(map(len, texts)) != head.bytes or _sha(texts) != head.sha:
        raise DamagedError("the decoded text is not the one that was compressed; nothing was written")
    return texts


# ---- what both sides do ---------------------------------------------------------------------------------------------


class Task(NamedTuple):
    """tokens: of all documents, their ends included."""

    codec: Codec
    method: Method
    documents: int
    rows: int
    tokens: int


def _walk(task: Task, code: Callable[[Walk, np.ndarray], Symbols], seals: Seals, progress: Progress | None) -> float:
    """Take the walk. `code` is given tables (n, V) and says which tokens they code; returns their bits."""
    codec, bits, done = task.codec, 0.0, 0
    with walking(codec.model, codec.tokenizer.vocab, task.method, task.documents, task.rows) as walk:
        while walk.asking:
            done += len(walk.asking)
            logs = walk.log_probabilities()
            tables = logs.exp().numpy()
            seals.add(walk, tables)
            with _lost(walk, seals):
                if done > task.tokens:
                    raise DamagedError("there are more tokens than the file says")
                symbols = code(walk, tables)
            bits -= float(logs.numpy()[np.arange(len(symbols)), symbols].sum(dtype=np.float64)) / np.log(2)
            walk.reveal(symbols)
            if progress:
                progress(done, task.tokens, bits)
        seals.close("the end")
    if done != task.tokens or (seals.expected is not None and seals.data != seals.expected):
        raise DamagedError(f"the file says {task.tokens:,} tokens and holds {done:,}, or not as many seals")
    return bits


@contextmanager
def _lost(walk: Walk, seals: Seals) -> Iterator[None]:
    """Where nothing more can be decoded, the decoder may have gone astray since the last seal, and the file be right."""
    try:
        yield
    except DamagedError as error:
        cause = f"{error.cause}: it was altered, or this machine computes other probabilities"
        raise DamagedError(cause, place=f"between {seals.since or walk.where()} and {walk.where()}") from None


def _decoded(decoder: Any, tables: np.ndarray) -> Symbols:
    try:
        return decoder.decode(CATEGORICAL, tables)
    except (AssertionError, ValueError) as error:  # what constriction raises where no symbol fits
        raise DamagedError(f"the file does not decode ({error})") from None


def _sha(texts: Iterable[bytes]) -> bytes:
    """Of the documents and of where they end."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.digest()[:8]


def _rows(method: Method, rows: int, documents: int) -> int:
    """Adapters have as many rows as their method says; otherwise no more are needed than there are documents."""
    return getattr(method, "rows", min(rows, documents))


# ---- the header, and what a hostile or damaged file may say ---------------------------------------------------------


class Head(NamedTuple):
    task: Task
    bytes: int
    sha: bytes
    seals: bytes
    payload: bytes


def method_numbers(codec: Codec, method: Method) -> list[int]:
    check_method(method)
    for i, own in enumerate(codec.methods, 1):
        if own is method:
            return [i]
    if type(method) not in (Contiguous, Sliding) or method.stretch:
        raise UsageError(f"the artifact has no such method {method.name!r}, so a decoder would not know it")
    return [0, method.window, method.stride]


def _method(codec: Codec, number: int, window: int, stride: int) -> Method:
    if not number:
        if not 1 <= stride <= window <= 1 << 16:
            raise DamagedError(f"the compressed file names an impossible window ({window}, {stride})")
        return Sliding(window=window, stride=stride)
    if number > len(codec.methods) or not can_walk(codec.methods[number - 1]):
        raise DamagedError(f"the compressed file names method {number} of {len(codec.methods)}, or one without a code")
    return codec.methods[number - 1]


def _read_head(codec: Codec, data: bytes) -> Head:
    if data[:3] != MAGIC[:3] or len(data) < 8:
        raise DamagedError("this is not a file that bitgolf compressed, or it is cut short")
    if data[3] != MAGIC[3]:
        raise DamagedError(f"version {data[3]} of the compressed format is not known here, only {MAGIC[3]}")
    if zlib.crc32(data[8:]).to_bytes(4, "little") != data[4:8]:
        raise DamagedError("the compressed file is damaged: its checksum does not match")
    numbers, at = list[int](), 8
    while len(numbers) < NUMBERS + 2 * (numbers[:1] == [0]):
        number, at = read_leb128(data, at)
        numbers.append(number)
    *how, rows, documents, tokens, size, sealed = numbers
    digest, sha, seals, payload = (data[a:b] for a, b in _spans(at, 8, 8, sealed, len(data)))
    if digest != codec.digest:
        raise BitgolfError(
            "the file was compressed with another model", place=f"model {digest.hex()}", mend="use that artifact"
        )
    method = _method(codec, *(*how, 0, 0)[:3])
    task = Task(codec, method, documents, rows, tokens)
    _plausible(task, len(seals), sealed, len(payload))
    return Head(task, size, sha, seals, payload)


def _spans(start: int, *lengths: int) -> list[tuple[int, int]]:
    ends = np.cumsum([start, *lengths]).tolist()
    return list(pairwise(ends))


def _plausible(task: Task, seals: int, sealed: int, payload: int) -> None:
    """Refuse counts that no honest encoder writes, before any work is done for them.

    In a table of 24 bits every one of V tokens has at least 1, so the likeliest still costs about V / 2^24 nats.
    """
    most = (8 * payload + 64) / (task.codec.tokenizer.vocab * FLOOR)
    fits = (
        seals == sealed
        and payload % 4 == 0
        and task.documents <= task.tokens <= most
        and bool(task.documents) == bool(task.tokens)
        and payload <= 4 * task.tokens + 64
        and bool(task.documents) <= task.rows == _rows(task.method, task.rows, task.documents)
    )
    if not fits:
        raise DamagedError("the compressed file's header does not fit its contents")
    try:
        _check_size(task.rows, task.method)
    except UsageError as error:
        raise DamagedError(f"the compressed file's header does not fit its contents: {error.cause}") from None


def _check_size(rows: int, method: Method) -> None:
    if rows > MOST_ROWS or rows * method.window > MOST_POSITIONS:
        raise UsageError(f"{rows} rows with windows of {method.window} tokens are too many", mend="--rows with fewer")
