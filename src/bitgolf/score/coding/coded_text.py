"""Range coding of one text, a list of documents, with the probabilities of a predictor.

Encoder and decoder share one predictor, which makes the same calls with the same shapes, and one arithmetic. So both
get the same floats and the same integer tables (24 bits, made by constriction).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import constriction
import numpy as np

from bitgolf.config.spec import Spec
from bitgolf.errors import CorruptFileError, UsageError
from bitgolf.model.lm import LM
from bitgolf.score.callbacks import ProgressCallback
from bitgolf.score.coding.arithmetic import Arithmetic, Tables
from bitgolf.score.coding.checksums import TableChecksums
from bitgolf.score.coding.open_predictor import open_former_predictor, open_predictor
from bitgolf.score.coding.predictor import Predictor, Symbols
from bitgolf.score.methods import ScoringMethod
from bitgolf.tokens.tokenizer import Ids, Tokenizer

_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]  # a submodule created at import
CATEGORICAL = _stream.model.Categorical(perfect=False)
MIN_PROBABILITY = 2.0**-24  # of a token in the 24-bit tables


class TextCodec(NamedTuple):
    """What encoder and decoder share: the model, its tokenizer, its digest (8 bytes) and the artifact's methods."""

    model: LM
    tokenizer: Tokenizer
    digest: bytes
    methods: Sequence[Spec[ScoringMethod]]


class CodingTask(NamedTuple):
    """A text to code. documents: their number. rows: documents side by side. tokens: of all documents, with ends.

    lengths: targets of each document, its end included, so that ends need not be coded. None in formats 3 and 4, where
    each document goes on until its end is decoded.
    """

    codec: TextCodec
    arithmetic: Arithmetic
    method: ScoringMethod
    documents: int
    rows: int
    tokens: int
    lengths: Sequence[int] | None

    @contextmanager
    def predictor(self) -> Iterator[Predictor]:
        """The predictor, in the context of the arithmetic."""
        where = self.codec.model, self.codec.tokenizer.vocab, self.method
        opened = (
            open_former_predictor(*where, self.documents, self.rows)
            if self.lengths is None
            else open_predictor(*where, self.lengths, self.rows)
        )
        with self.arithmetic.activate(), opened as predictor:
            yield predictor


class EncodedText(NamedTuple):
    """A coded text. bits: sum of -log2 p over all tokens and ends. checksums: see `checksums`. payload: coded tokens."""

    bits: float
    checksums: bytes
    payload: bytes


def encode_text(task: CodingTask, documents: Sequence[Ids], progress: ProgressCallback | None = None) -> EncodedText:
    """Encode documents, token ids without BOS. Raises `UsageError` if a document has BOS."""
    bos = task.codec.model.bos
    for i, document in enumerate(documents):
        if (document == bos).any():
            cause = f"the document contains BOS (token {bos}), which ends documents"
            raise UsageError(cause, where=f"compress: document {i}", hint="pass documents without BOS")
    ended = [np.append(d, bos).astype(np.int32) for d in documents]
    encoder, checksums = _stream.queue.RangeEncoder(), TableChecksums()

    def encode(targets: Sequence[tuple[int, int]], tables: Tables, coded: np.ndarray) -> Symbols:
        symbols = np.array([ended[document][index] for document, index in targets], np.int32)
        if coded.any():
            encoder.encode(symbols[coded], CATEGORICAL, tables[coded])
        return symbols

    bits = _run(task, encode, checksums, progress)
    return EncodedText(bits, bytes(checksums.data), encoder.get_compressed().astype("<u4").tobytes())


def decode_text(
    task: CodingTask, checksums: bytes, payload: bytes, hint: str, progress: ProgressCallback | None = None
) -> list[list[int]]:
    """The documents, token ids without BOS. hint: what to do if this machine computes other probabilities.

    Raises `CorruptFileError` if the payload is damaged, and `BitgolfError` if the probabilities differ.
    """
    found: list[list[int]] = [[] for _ in range(task.documents)]
    decoder, spent = _stream.queue.RangeDecoder(np.frombuffer(payload, "<u4").astype(np.uint32)), 0.0
    bos = task.codec.model.bos

    def decode(targets: Sequence[tuple[int, int]], tables: Tables, coded: np.ndarray) -> Symbols:
        nonlocal spent
        symbols = np.full(len(targets), bos, np.int32)
        if coded.any():
            own = tables[coded]
            symbols[coded] = new = _decoded(decoder, own)
            spent -= float(np.log2(own[np.arange(len(new)), new].astype(np.float64) + MIN_PROBABILITY).sum())
        if spent > 8 * len(payload) + 64:
            size = 8 * len(payload)
            raise CorruptFileError(f"the decoded tokens have {spent:,.0f} bits, more than the {size:,} of the payload")
        if task.lengths is not None and (symbols[coded] == bos).any():
            raise CorruptFileError("a document ends before the length that the file states")
        for (document, _), symbol in zip(targets, symbols.tolist(), strict=True):
            found[document].append(symbol)
        return symbols

    _run(task, decode, TableChecksums(checksums, hint), progress)
    return [document[:-1] for document in found]


CodeSymbols = Callable[[Sequence[tuple[int, int]], Tables, np.ndarray], Symbols]
"""Codes the tokens of n targets (document, index) with tables (n, V), where `coded` (n,) is True; the others are ends
that both sides know. Returns all n tokens."""


def _run(
    task: CodingTask, code_symbols: CodeSymbols, checksums: TableChecksums, progress: ProgressCallback | None
) -> float:
    """Code all documents. Returns the bits."""
    if not task.documents:
        return 0.0
    bits, done = 0.0, 0
    with task.predictor() as predictor:
        while targets := predictor.targets:
            done += len(targets)
            logs = predictor.log_probabilities()
            tables = task.arithmetic.tables(logs)
            checksums.add(predictor.position(), tables)
            with _diverged(predictor, checksums):
                if done > task.tokens:
                    raise CorruptFileError(f"the file has more tokens than the {task.tokens:,} of its header")
                symbols = code_symbols(targets, tables, _coded(task, targets))
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


def _coded(task: CodingTask, targets: Sequence[tuple[int, int]]) -> np.ndarray:
    """Which targets are coded, bool (n,): all but the ends of documents whose length is known."""
    lengths = task.lengths
    if lengths is None:
        return np.ones(len(targets), bool)
    return np.array([index + 1 < lengths[document] for document, index in targets])


@contextmanager
def _diverged(predictor: Predictor, checksums: TableChecksums) -> Iterator[None]:
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
