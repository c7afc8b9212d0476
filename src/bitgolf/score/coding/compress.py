"""Lossless compression with a model. The size of the compressed file proves a score.

Encoder and decoder share one predictor (module `predictor`), which makes the same calls with the same shapes, and one
arithmetic (module `arithmetic`). So both get the same floats and the same integer tables (24 bits, made by
constriction). The end of a document is coded as BOS.
The predicted bits are those of the referee's score with the same method and isolated documents. The model runs on the
CPU in float32, on whatever device it was trained or scored. The file format is described in `bgz_format`.
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
from bitgolf.score.coding.arithmetic import Arithmetic, NativeArithmetic, choose_arithmetic, machine_fingerprint
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

MIN_PART_BYTES, MAX_PARTS = 16_384, 16  # a part of a file is coded in a row of its own
_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]  # a submodule created at import
CATEGORICAL = _stream.model.Categorical(perfect=False)


class Compressed(NamedTuple):
    """A compressed file. bits: the predicted size, sum of -log2 p over all tokens and ends. tokens: ends included."""

    data: bytes
    bits: float
    tokens: int
    arithmetic: str


def default_method(methods: Sequence[Spec[ScoringMethod]]) -> Spec[ScoringMethod]:
    """The last of an artifact's methods that can be coded, or else contiguous windows of its last method's length."""
    return next((m for m in reversed(methods) if is_codable(m())), part(ContiguousScoring, window=methods[-1]().window))


def split_file(codec: TextCodec, data: bytes) -> list[Ids]:
    """Tokenize a file as up to 16 documents, cut at a line end if there is one nearby."""
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
    portable: bool | None = None,
    progress: ProgressCallback | None = None,
) -> Compressed:
    """Compress documents (token ids without BOS). `decompress` restores their bytes and borders with the same artifact.

    rows: documents coded side by side. portable: the arithmetic, see `choose_arithmetic`. Raises `UsageError` if a
    document has BOS, if the method cannot be coded (see `is_codable`) in this arithmetic, or if there are too many rows.
    """
    bos, count = codec.model.bos, sum(len(d) + 1 for d in documents)
    for i, document in enumerate(documents):
        if (document == bos).any():
            cause = f"the document contains BOS (token {bos}), which ends documents"
            raise UsageError(cause, where=f"compress: document {i}", hint="pass documents without BOS")
    numbers, made = encode_method(codec, method), method()
    arithmetic, rows = choose_arithmetic(made, portable), num_rows(made, rows, len(documents))
    check_size(rows, made)
    ended = [np.append(d, bos).astype(np.int32) for d in documents]
    encoder, checksums = _stream.queue.RangeEncoder(), TableChecksums()

    def encode(predictor: DocumentPredictor, tables: np.ndarray) -> Symbols:
        symbols = np.array([ended[row.document][row.num_known] for _, row in predictor.active], np.int32)
        encoder.encode(symbols, CATEGORICAL, tables)
        return symbols

    task = CodingTask(codec, arithmetic, made, len(documents), rows, count)
    bits = _run(task, encode, checksums, progress) if documents else 0.0
    texts = [codec.tokenizer.decode(d) for d in documents]
    payload = encoder.get_compressed().astype("<u4").tobytes()
    numbers += [rows, len(documents), count]
    data = write_bgz(codec, arithmetic, numbers, texts, bytes(checksums.data), payload)
    return Compressed(data, bits, count, arithmetic.name)


def decompress(codec: TextCodec, data: bytes, progress: ProgressCallback | None = None) -> list[bytes]:
    """The documents that were compressed.

    Raises `CorruptFileError` if the file is damaged, and `BitgolfError` if the model or its probabilities differ. Wrong
    bytes are never returned.
    """
    header = read_header(codec, data)
    found: dict[int, list[int]] = {}
    decoder, spent = _stream.queue.RangeDecoder(np.frombuffer(header.payload, "<u4").astype(np.uint32)), 0.0

    def decode(predictor: DocumentPredictor, tables: np.ndarray) -> Symbols:
        nonlocal spent
        symbols = _decoded(decoder, tables)
        spent -= float(np.log2(tables[np.arange(len(symbols)), symbols].astype(np.float64) + MIN_PROBABILITY).sum())
        if spent > 8 * len(header.payload) + 64:
            size = 8 * len(header.payload)
            raise CorruptFileError(f"the decoded tokens have {spent:,.0f} bits, more than the {size:,} of the payload")
        for (_, row), symbol in zip(predictor.active, symbols.tolist(), strict=True):
            found.setdefault(row.document, []).append(symbol)
        return symbols

    if header.task.documents:
        hint = _hint(header.task.arithmetic, header.fingerprint)
        _run(header.task, decode, TableChecksums(header.checksums, hint), progress)
    texts = [codec.tokenizer.decode(found[i][:-1]) for i in range(header.task.documents)]
    if sum(map(len, texts)) != header.bytes or documents_digest(texts) != header.digest:
        size = sum(map(len, texts))
        cause = f"the decoded text ({size:,} bytes) is not the one that was compressed ({header.bytes:,} bytes)"
        raise CorruptFileError(f"{cause}; nothing was written")
    return texts


def _hint(arithmetic: Arithmetic, fingerprint: str) -> str:
    """What to do if this machine computes other probabilities than the one that compressed a file."""
    if not isinstance(arithmetic, NativeArithmetic):
        return "the model or the file was changed: in portable arithmetic every machine computes the same"
    if not fingerprint or fingerprint == machine_fingerprint():
        return "decompress with the same torch version on the same kind of processor"
    return f"decompress with {fingerprint} (here: {machine_fingerprint()}), or compress with --portable"


# ---- shared by encoder and decoder ----------------------------------------------------------------------------------


def _run(
    task: CodingTask,
    code_symbols: Callable[[DocumentPredictor, np.ndarray], Symbols],
    checksums: TableChecksums,
    progress: ProgressCallback | None,
) -> float:
    """Code all documents. `code_symbols` codes n tokens with tables (n, V) and returns them. Returns the bits."""
    codec, arithmetic, bits, done = task.codec, task.arithmetic, 0.0, 0
    with (
        arithmetic.activate(),
        open_predictor(codec.model, codec.tokenizer.vocab, task.method, task.documents, task.rows) as predictor,
    ):
        while predictor.active:
            done += len(predictor.active)
            logs = predictor.log_probabilities()
            tables = arithmetic.tables(logs)
            checksums.add(predictor.position(), tables)
            with _diverged(predictor, checksums):
                if done > task.tokens:
                    raise CorruptFileError(f"the file has more tokens than the {task.tokens:,} of its header")
                symbols = code_symbols(predictor, tables)
            bits -= float(logs.numpy()[np.arange(len(symbols)), symbols].sum(dtype=np.float64)) / math.log(2)
            predictor.update(symbols)
            if progress:
                progress(done, task.tokens, bits)
        checksums.finish("the end")
    if done != task.tokens or (checksums.expected is not None and checksums.data != checksums.expected):
        counts = f"{task.tokens:,} tokens and {len(checksums.expected or b''):,} checksums"
        cause = f"the header specifies {counts}, but {done:,} tokens and {len(checksums.data):,} checksums were decoded"
        raise CorruptFileError(cause)
    return bits


@contextmanager
def _diverged(predictor: DocumentPredictor, checksums: TableChecksums) -> Iterator[None]:
    """Add the position to an error of decoding. The cause may also be a difference in probabilities, not the file."""
    try:
        yield
    except CorruptFileError as error:
        cause = f"{error.message}: the file was altered, or this machine computes other probabilities"
        where = f"between {checksums.since or predictor.position()} and {predictor.position()}"
        raise CorruptFileError(cause, where=where, hint=checksums.hint) from error


def _decoded(decoder: Any, tables: np.ndarray) -> Symbols:
    try:
        return decoder.decode(CATEGORICAL, tables)
    except (AssertionError, ValueError) as error:  # constriction raises these if no symbol fits
        raise CorruptFileError(f"the payload cannot be decoded ({error})") from error
