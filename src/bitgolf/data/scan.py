"""One pass over the shards of a split: what a manifest states, found from the tokens alone.

The shards are memory-mapped and read in blocks, so memory does not depend on their size, except for 16 bytes per
document. Digests of files are computed by a second thread, at the same time as the counts. 200 MB take about a second
of CPU time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bitgolf.data.manifest import ShardEntry
from bitgolf.data.overlap import Fingerprints
from bitgolf.data.shards import Positions, Tokens, TokenStream
from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.files import file_digest
from bitgolf.report.log import RunLog
from bitgolf.report.progress import WorkProgress
from bitgolf.text.caseops import ESC
from bitgolf.tokens.caseops_tokenizer import CaseOpsTokenizer
from bitgolf.tokens.tokenizer import Tokenizer

_BLOCK_TOKENS = 1 << 20
_IDS = 1 << 16  # number of values of a 16-bit token


class SplitScan(NamedTuple):
    """What the shards of a split contain.

    starts: positions of BOS. encoded_bytes: length of the text that the tokens decode to. tokens_without_text: number of
    tokens other than BOS that decode to nothing, such as <unk>. fingerprints: as from `overlap.stream_fingerprints`.
    """

    stream: TokenStream
    entries: tuple[ShardEntry, ...]
    starts: Positions
    encoded_bytes: int
    tokens_without_text: int
    fingerprints: Fingerprints


def scan_split(split: str, paths: Sequence[Path], tokenizer: Tokenizer, log: RunLog) -> SplitScan:
    """Read all shards of a split once. split: its name, for messages. log: receives progress and speed.

    All headers are read first. Raises the errors of `read_shard`, `CorruptFileError` if a token is outside the
    vocabulary, and `BitgolfError` if no token is BOS.
    """
    stream, counter = TokenStream(paths), _TokenCounter(tokenizer)
    done, progress = 0, WorkProgress(log.progress, f"read {split} shards", "bytes")
    entries = list[ShardEntry]()
    with ThreadPoolExecutor(1) as pool:
        for path, shard in zip(paths, stream.shards, strict=True):
            digest: Future[str] = pool.submit(file_digest, path)
            for first in range(0, len(shard), _BLOCK_TOKENS):
                block = shard[first : first + _BLOCK_TOKENS]
                _check_vocabulary(path, first, block, tokenizer)
                counter.add(block)
                done += 2 * len(block)
                progress.update(done, 2 * len(stream))
            entries.append(ShardEntry(path.name, len(shard), digest.result()))
    if not counter.documents:
        raise BitgolfError(
            f"no {split} token is BOS ({tokenizer.bos}), which precedes each document",
            where=stream.folder,
            hint=f"use the tokenizer that made these shards instead of {tokenizer.where}, or write BOS before documents",
        )
    counts = f"{len(stream):,} tokens, {counter.documents:,} documents in {len(paths):,} shard{'s' * (len(paths) != 1)}"
    log.info(f"{split}: {counts} ({progress.rate(done) / 1e6:,.0f} MB/s)")
    return SplitScan(
        stream,
        tuple(entries),
        counter.starts,
        counter.encoded_bytes(stream),
        counter.tokens_without_text,
        counter.fingerprints(),
    )


def _check_vocabulary(path: Path, first: int, block: Tokens, tokenizer: Tokenizer) -> None:
    """Raise `CorruptFileError` if a token of the block, which starts at token `first`, is not in the vocabulary."""
    if int(block.max()) < tokenizer.vocab:
        return
    outside = np.flatnonzero(block >= tokenizer.vocab)
    at, token = first + int(outside[0]), int(block[outside[0]])
    hint = f"use the tokenizer that made these shards instead of {tokenizer.where}, or restore the file"
    if int(block.byteswap().max()) < tokenizer.vocab:
        hint = "the tokens seem to be big-endian: write them as little-endian 16-bit numbers"
    raise CorruptFileError(
        f"token {at:,} has the id {token:,}, but the vocabulary has {tokenizer.vocab:,} tokens",
        where=str(path),
        hint=hint,
    )


class _TokenCounter:
    """Counts the tokens of a stream that is given in blocks, and finds and hashes its documents."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.documents = tokenizer, 0
        self._counts = np.zeros(_IDS, np.int64)
        self._inexact = _inexact_tokens(tokenizer)
        self._tokens = 0
        self._starts, self._inexact_positions = list[Positions](), list[Positions]()
        self._open: hashlib._Hash | None = None  # the document that the next block may continue
        self._hashes = bytearray()

    def add(self, block: Tokens) -> None:
        starts = np.flatnonzero(block == self.tokenizer.bos)
        self._counts += np.bincount(block, minlength=_IDS)
        self._hash(block, starts.tolist())
        self._starts.append(starts + self._tokens)
        if len(self._inexact):
            self._inexact_positions.append(np.flatnonzero(np.isin(block, self._inexact)) + self._tokens)
        self.documents += len(starts)
        self._tokens += len(block)

    def _hash(self, block: Tokens, starts: list[int]) -> None:
        data = block.view(np.uint8).data
        if self._open:
            self._open.update(data[: 2 * starts[0]] if starts else data)
        for start, stop in pairwise([*starts, len(block)]):
            self._close()
            self._open = hashlib.sha256(data[2 * start : 2 * stop])

    def _close(self) -> None:
        if self._open:
            self._hashes += self._open.digest()[:8]
        self._open = None

    @property
    def starts(self) -> Positions:
        """Positions of BOS, int64 (documents,)."""
        return np.concatenate(self._starts)

    @property
    def tokens_without_text(self) -> int:
        """Number of tokens other than BOS that decode to nothing."""
        silent = self.tokenizer.is_boundary.copy()
        silent[self.tokenizer.bos] = False
        return int(self._counts[: self.tokenizer.vocab][silent].sum())

    def fingerprints(self) -> Fingerprints:
        """Fingerprints of all documents, uint64 (documents,). Call it after the last block."""
        self._close()
        return np.frombuffer(bytes(self._hashes), "<u8").astype(np.uint64)

    def encoded_bytes(self, stream: TokenStream) -> int:
        """Length of the text in bytes, from the counts of tokens; documents with inexact tokens are counted again."""
        lengths = self.tokenizer.byte_lengths
        total = int(self._counts[: self.tokenizer.vocab] @ lengths)
        starts = self.starts
        bounds = [0, *starts.tolist(), len(stream)]  # of documents; first what precedes the first BOS
        found = [np.searchsorted(starts, positions, side="right") for positions in self._inexact_positions]
        for i in np.unique(np.concatenate(found)).tolist() if found else ():
            ids = stream.window(bounds[i], bounds[i + 1] - bounds[i])
            total += int(self.tokenizer.count_bytes(ids).sum() - lengths[ids].sum())
        return total


def _inexact_tokens(tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """Return the ids of the tokens that can make `byte_lengths` differ from `count_bytes` in their document.

    With case operators these are ESC, after which an operator is text, and the first byte of an operator as a token of
    its own. For another tokenizer whose counts depend on the context, BOS stands for every document.
    """
    if type(tokenizer).count_bytes is Tokenizer.count_bytes:
        return np.zeros(0, np.int64)
    if not isinstance(tokenizer, CaseOpsTokenizer):
        return np.array([tokenizer.bos])
    return np.array([i for i, piece in enumerate(tokenizer.piece_bytes) if ESC in piece or piece == ESC[:1]])
