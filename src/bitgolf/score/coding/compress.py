"""Real lossless compression with a model: what proves a score.

Documents are coded by one walk that encoder and decoder share (`walk`): the same calls with the same shapes on one
thread, so both see the same floats and derive the same integer tables (24 bits, made by constriction). The end of a
document is coded as BOS. The bits predicted are those of the referee's score of the documents with the same method,
isolated. The model runs on the CPU in float32, wherever it was trained or scored. The file is described in `bgz_format`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import constriction
import numpy as np

from bitgolf.config.spec import Spec, part
from bitgolf.errors import CorruptFileError, UsageError
from bitgolf.score.callbacks import ProgressCallback
from bitgolf.score.coding.bgz_format import (
    MIN_PROBABILITY,
    CodingTask,
    TextCodec,
    check_size,
    documents_digest,
    encode_method,
    num_rows,
    read_header,
    write_bgz,
)
from bitgolf.score.coding.checksums import TableChecksums
from bitgolf.score.coding.predictor import DocumentPredictor, Symbols, is_codable, open_predictor
from bitgolf.score.methods import ContiguousScoring, ScoringMethod
from bitgolf.tokens.tokenizer import Ids

MIN_PART_BYTES, MAX_PARTS = 16_384, 16  # bytes of a file that are worth a row of their own
_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]  # made when it is imported
CATEGORICAL = _stream.model.Categorical(perfect=False)


class Compressed(NamedTuple):
    data: bytes
    bits: float  # predicted: the sum of -log2 p over all tokens and ends
    tokens: int


def default_method(methods: Sequence[Spec[ScoringMethod]]) -> Spec[ScoringMethod]:
    """The last of an artifact's methods that can be coded: the best score that can be proved. Else plain blocks."""
    return next((m for m in reversed(methods) if is_codable(m())), part(ContiguousScoring, window=methods[-1]().window))


def split_file(codec: TextCodec, data: bytes) -> list[Ids]:
    """A file as up to 16 documents, cut at ends of lines where there are any near."""
    count = max(1, min(MAX_PARTS, len(data) // MIN_PART_BYTES))
    near = [len(data) * i // count for i in range(1, count)]
    cuts = [0, *(data.find(b"\n", at, at + MIN_PART_BYTES // 4) + 1 or at for at in near), len(data)]
    return codec.tokenizer.encode_documents([data[a:b] for a, b in pairwise(cuts)])


def compress(
    codec: TextCodec,
    documents: Sequence[Ids],
    *,
    method: Spec[ScoringMethod],
    rows: int = 64,
    progress: ProgressCallback | None = None,
) -> Compressed:
    """Code documents, tokens without BOS. `decompress` with the same artifact restores their bytes, and their borders.

    rows: documents side by side. Raises `UsageError` where the method's probabilities cannot be had one document alone.
    """
    bos, count = codec.model.bos, sum(len(d) + 1 for d in documents)
    if any((d == bos).any() for d in documents):
        raise UsageError("a document holds the token that ends documents", where="compress")
    numbers, made = encode_method(codec, method), method()
    rows = num_rows(made, rows, len(documents))
    check_size(rows, made)
    ended = [np.append(d, bos).astype(np.int32) for d in documents]
    encoder, checksums = _stream.queue.RangeEncoder(), TableChecksums()

    def encode(walk: DocumentPredictor, tables: np.ndarray) -> Symbols:
        symbols = np.array([ended[row.document][row.num_known] for _, row in walk.active], np.int32)
        encoder.encode(symbols, CATEGORICAL, tables)
        return symbols

    task = CodingTask(codec, made, len(documents), rows, count)
    bits = _run(task, encode, checksums, progress) if documents else 0.0
    texts = [codec.tokenizer.decode(d) for d in documents]
    payload = encoder.get_compressed().astype("<u4").tobytes()
    numbers += [rows, len(documents), count]
    return Compressed(write_bgz(codec, numbers, texts, bytes(checksums.data), payload), bits, count)


def decompress(codec: TextCodec, data: bytes, progress: ProgressCallback | None = None) -> list[bytes]:
    """The documents that `compress` was given. A damaged file or another model is an error, never other bytes."""
    head = read_header(codec, data)
    found: dict[int, list[int]] = {}
    decoder, spent = _stream.queue.RangeDecoder(np.frombuffer(head.payload, "<u4").astype(np.uint32)), 0.0

    def decode(walk: DocumentPredictor, tables: np.ndarray) -> Symbols:
        nonlocal spent
        symbols = _decoded(decoder, tables)
        spent -= float(np.log2(tables[np.arange(len(symbols)), symbols].astype(np.float64) + MIN_PROBABILITY).sum())
        if spent > 8 * len(head.payload) + 64:
            raise CorruptFileError("more is decoded than the file can hold")
        for (_, row), symbol in zip(walk.active, symbols.tolist(), strict=True):
            found.setdefault(row.document, []).append(symbol)
        return symbols

    if head.task.documents:
        _run(head.task, decode, TableChecksums(head.checksums), progress)
    texts = [codec.tokenizer.decode(found[i][:-1]) for i in range(head.task.documents)]
    if sum(map(len, texts)) != head.bytes or documents_digest(texts) != head.digest:
        raise CorruptFileError("the decoded text is not the one that was compressed; nothing was written")
    return texts


# ---- what both sides do ---------------------------------------------------------------------------------------------


def _run(
    task: CodingTask,
    code_symbols: Callable[[DocumentPredictor, np.ndarray], Symbols],
    checksums: TableChecksums,
    progress: ProgressCallback | None,
) -> float:
    """Take the walk. `code_symbols` is given tables (n, V) and says which tokens they code; returns their bits."""
    codec, bits, done = task.codec, 0.0, 0
    with open_predictor(codec.model, codec.tokenizer.vocab, task.method, task.documents, task.rows) as walk:
        while walk.active:
            done += len(walk.active)
            logs = walk.log_probabilities()
            tables = logs.exp().numpy()
            checksums.add(walk.position(), tables)
            with _diverged(walk, checksums):
                if done > task.tokens:
                    raise CorruptFileError("there are more tokens than the file says")
                symbols = code_symbols(walk, tables)
            bits -= float(logs.numpy()[np.arange(len(symbols)), symbols].sum(dtype=np.float64)) / math.log(2)
            walk.update(symbols)
            if progress:
                progress(done, task.tokens, bits)
        checksums.finish("the end")
    if done != task.tokens or (checksums.expected is not None and checksums.data != checksums.expected):
        raise CorruptFileError(f"the file says {task.tokens:,} tokens and holds {done:,}, or not as many checksums")
    return bits


@contextmanager
def _diverged(walk: DocumentPredictor, checksums: TableChecksums) -> Iterator[None]:
    """If a token cannot be decoded, the probabilities may differ since the last checksum although the file is intact."""
    try:
        yield
    except CorruptFileError as error:
        cause = f"{error.message}: it was altered, or this machine computes other probabilities"
        raise CorruptFileError(
            cause, where=f"between {checksums.since or walk.position()} and {walk.position()}"
        ) from error


def _decoded(decoder: Any, tables: np.ndarray) -> Symbols:
    try:
        return decoder.decode(CATEGORICAL, tables)
    except (AssertionError, ValueError) as error:  # what constriction raises where no symbol fits
        raise CorruptFileError(f"the file does not decode ({error})") from error
