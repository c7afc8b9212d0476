"""Results of scoring and compression. The fields are the keys of `score --json`, `compress --json` and `run --json`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec


class BitsRow(msgspec.Struct, frozen=True):
    """Sums over a class of targets: their number, bytes of the text, and bits (-log2 p)."""

    name: str
    targets: int
    bytes: int
    bits: float


class BitBreakdown(msgspec.Struct, frozen=True):
    """Where the bits of a score go. Each table sums all targets; classes without targets are left out.

    kinds: by kind of token. positions: by the number of targets before it in its document. lengths: by the number of
    targets of its document. frequencies: by how often the word of the target occurs in the scored text.
    """

    kinds: list[BitsRow]
    positions: list[BitsRow]
    lengths: list[BitsRow]
    frequencies: list[BitsRow]


class MethodResult(msgspec.Struct, frozen=True, kw_only=True):
    """The score of one text by one method, and how it was computed.

    bits: sum of -log2 p over all targets, without order_bits. bytes: of the raw text in UTF-8.
    bpb: (bits + order_bits) / bytes.
    targets: number of tokens that were scored, each exactly once.
    tokens_read: tokens that the model computed. targets_per_token_read: targets / tokens_read, 1 if none is read twice.
    order_bits: bits of side information that a decoder needs for the document order; 0 for corpus order.
    adapts: whether the method changes the model while it scores.
    bpb_without_adaptation: score of the same windows without adaptation; gain: bpb_without_adaptation - bpb. Both are
    None for a method that does not adapt, or if the baseline was not scored.
    seconds: wall time, compilation included. compile_seconds: the part of it that compilation took.
    targets_per_second: targets / (seconds - compile_seconds), over all processes.
    time_limit_seconds: limit for seconds - compile_seconds; `warnings` has an entry if scoring took longer.
    forecast_seconds: time expected after the first few percent of the targets; None if there were too few.
    window, stride: in tokens. cross_document: whether earlier documents can change the score of later ones.
    order: document order: corpus, shuffled or longest. processes: number of processes.
    device: kind of device and number format. kernels: fused kernels that were used and the reason, one line per kind.
    batch_tokens: tokens per batch. breakdown: where the bits go; None in scores of which it was not asked.
    """

    method: str
    bits: float
    bytes: int
    targets: int
    tokens_read: int
    seconds: float
    order_bits: int
    bpb: float
    adapts: bool
    bpb_without_adaptation: float | None
    gain: float | None
    compile_seconds: float
    time_limit_seconds: float
    forecast_seconds: float | None
    targets_per_second: float
    targets_per_token_read: float
    window: int
    stride: int
    cross_document: bool
    order: str
    processes: int
    device: str
    kernels: list[str]
    batch_tokens: int
    warnings: list[str]
    breakdown: BitBreakdown | None = None


class CompressResult(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was compressed. bpb_coded: 8 bytes_out / bytes_in. bpb_predicted: sum of -log2 p / bytes_in.

    bytes_stored: bytes of the file that the model did not shorten; they are stored as they are.
    arithmetic: `portable-1` if every machine can decompress it, `native` if only machines of the same kind can.
    """

    bytes_in: int
    bytes_out: int
    bytes_stored: int
    bpb_coded: float
    bpb_predicted: float
    method: str
    arithmetic: str
    seconds: float


class DecompressResult(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was decompressed. documents: length of each document in bytes."""

    bytes_in: int
    bytes_out: int
    documents: list[int]
    seconds: float


CompressFile = Callable[[Path, Path], CompressResult]
"""Compresses the file at the first path and writes the result to the second path."""

DecompressFile = Callable[[Path, Path], DecompressResult]
"""Decompresses the file at the first path and writes the result to the second path."""


class ScoredText(msgspec.Struct, frozen=True, kw_only=True):
    """The held-out text that was scored: all of it, or a sample of its documents.

    tokens: number of targets. share: its bytes as a fraction of those of the whole held-out text.
    """

    documents: int
    tokens: int
    bytes: int
    share: float


class RoundTripResult(msgspec.Struct, frozen=True, kw_only=True):
    """A held-out document that was compressed and decompressed.

    bytes_in … seconds: as in `CompressResult`, in native arithmetic. restored: whether every byte of the decompressed file is the original's.
    general_compressors_bpb: bits per byte of the held-out text as one file, by name and level of the compressor; of its
    first general_compressors_bytes bytes.
    """

    bytes_in: int
    bytes_out: int
    bpb_coded: float
    bpb_predicted: float
    method: str
    seconds: float
    decompress_seconds: float
    restored: bool
    general_compressors_bpb: dict[str, float]
    general_compressors_bytes: int


class ProofSeconds(msgspec.Struct, frozen=True, kw_only=True):
    """Wall time of the three steps of a proof, in seconds."""

    score: float
    compress: float
    decompress: float


class ProofResult(msgspec.Struct, frozen=True, kw_only=True):
    """A score that was proved by compression. Also the contents of `proof.json`.

    format: version of the file's format. bytes, targets: of the text.
    arithmetic: of the compressed files, as in `CompressResult`.
    claimed_bits: score of all documents, each isolated. claimed_bpb: claimed_bits / bytes.
    coded_bytes: size of all compressed files together. coded_bpb: 8 coded_bytes / bytes.
    overhead_percent: 100 (8 coded_bytes / claimed_bits - 1).
    groups: number of compressed files. sampled: numbers of the groups that were decompressed, drawn with `challenge`.
    verified: whether every sampled group decompressed to the text.
    max_false_fraction: upper bound, at `confidence`, of the fraction of groups that do not decompress to the text.
    """

    format: int
    artifact: str
    method: str
    arithmetic: str
    window: int
    stride: int
    bytes: int
    targets: int
    claimed_bits: float
    claimed_bpb: float
    coded_bytes: int
    coded_bpb: float
    overhead_percent: float
    groups: int
    sampled: list[int]
    challenge: str
    verified: bool
    max_false_fraction: float
    confidence: float
    seconds: ProofSeconds
