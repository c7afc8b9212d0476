"""Results of scoring and of compression. The fields are the keys of `score --json`, `compress --json` and `run --json`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec


class MethodResult(msgspec.Struct, frozen=True, kw_only=True):
    """The score of one text by one method, and how it was computed.

    bits: summed over all targets, without order_bits. bpb: (bits + order_bits) / bytes.
    bytes: of the raw text, in UTF-8.
    targets: tokens that were scored, each exactly once.
    tokens_read: tokens that the model computed; targets_per_token_read = targets / tokens_read: 1 if no token is read twice.
    order_bits: side information that a decoder needs to know the order of the documents; 0 for corpus order.
    adapts: whether the method changes the model while it scores.
    bpb_without_adaptation: of the same windows without adaptation; gain: that minus bpb, in bpb. Both are None for a
    method that does not adapt, or if the baseline was not scored.
    seconds: wall time, compilation included; compile_seconds: of that, for compilation.
    targets_per_second: targets / (seconds - compile_seconds), over all processes.
    time_limit_seconds: if scoring takes longer without compilation, `warnings` says so.
    forecast_seconds: the expected time as estimated after the first few percent of the targets; None if too few.
    window, stride: in tokens. cross_document: whether earlier documents can change the score of later ones.
    order: of the documents: corpus, shuffled or longest.
    device: its kind and the number format; kernels: the fused kernels that were used, and why, one line for each kind.
    batch_tokens: tokens of one batch.
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


class CompressResult(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was compressed. bpb_coded: 8 bytes_out / bytes_in; bpb_predicted: from the probabilities alone."""

    bytes_in: int
    bytes_out: int
    bpb_coded: float
    bpb_predicted: float
    method: str
    seconds: float


class DecompressResult(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was decompressed. documents: the length of each document in bytes."""

    bytes_in: int
    bytes_out: int
    documents: list[int]
    seconds: float


CompressFile = Callable[[Path, Path], CompressResult]
"""Compresses the first file into the second."""

DecompressFile = Callable[[Path, Path], DecompressResult]
"""Decompresses the first file into the second."""


class RoundTripResult(msgspec.Struct, frozen=True, kw_only=True):
    """A held-out file that was compressed and decompressed.

    bytes_in … seconds: of compression, see `CompressResult`. restored: every byte of the decompressed file was compared.
    general_compressors_bpb: bits per byte of all held-out text, by the name and the level of the compressor.
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


class ProofSeconds(msgspec.Struct, frozen=True, kw_only=True):
    """Wall time of the three steps of a proof."""

    score: float
    compress: float
    decompress: float


class ProofResult(msgspec.Struct, frozen=True, kw_only=True):
    """A score that was proved by compression. Also the contents of `proof.json`.

    format: number of the file's format. bytes, targets: of the text.
    claimed_bits: the score of all documents, each by itself; claimed_bpb = claimed_bits / bytes.
    coded_bytes: of all compressed files together; coded_bpb = 8 coded_bytes / bytes.
    overhead_percent: by how much coded_bytes exceed claimed_bits.
    groups: number of compressed files; sampled: those that were decompressed, by number, as drawn with `challenge`.
    verified: every sampled group decompressed to the text.
    max_false_fraction: upper bound, at `confidence`, of the fraction of groups that do not decompress to the text.
    """

    format: int
    artifact: str
    method: str
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
