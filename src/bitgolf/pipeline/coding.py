"""Compression and decompression of a file with an artifact, in this process or in a process of their own."""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import msgspec
import torch

from bitgolf.artifact.model import LoadedArtifact, load_model
from bitgolf.config.spec import Spec
from bitgolf.errors import UsageError, error_location
from bitgolf.files import atomic_write
from bitgolf.report.log import RunLog
from bitgolf.report.progress import Progress, WorkProgress, duration
from bitgolf.runtime.launch import run_worker
from bitgolf.score.coding import compress, file_blocks
from bitgolf.score.coding.arithmetic import NativeArithmetic
from bitgolf.score.coding.coded_text import TextCodec
from bitgolf.score.coding.open_predictor import default_method
from bitgolf.score.coding.speed import Speed, measure_speed
from bitgolf.score.method_selection import select_methods
from bitgolf.score.methods import ScoringMethod
from bitgolf.score.result import CompressResult, DecompressResult

STREAM = Path("-")
"""Stands for standard input or standard output."""
LEAST_ANNOUNCED, LEAST_MEASURED = 30.0, 1_000
"""Seconds of coding from which on it is said in advance how long it will take; tokens of a file that can take as long."""


class CodingJob(msgspec.Struct, frozen=True):
    """A file to read, a file to write, and the artifact whose model predicts the text. `-` is a standard stream.

    portable: the arithmetic of compression, see `choose_arithmetic`. A file to decompress states its own.
    force: whether an existing file is replaced. method, edits: name and settings of the method of compression, as in
    `select_methods`; "" for `default_method`.
    """

    artifact: Path
    source: Path
    target: Path
    portable: bool | None = None
    force: bool = True
    method: str = ""
    edits: tuple[str, ...] = ()


def text_codec(loaded: LoadedArtifact) -> TextCodec:
    """The text codec of an artifact, with the scoring methods of its recipe."""
    return TextCodec(loaded.model, loaded.tokenizer, loaded.digest, loaded.recipe.score)


def chosen_method(codec: TextCodec, name: str, edits: tuple[str, ...]) -> Spec[ScoringMethod]:
    """The method of this name with these settings. Raises `UsageError` if it names several methods."""
    if not name:
        return default_method(select_methods(codec.methods, (), edits))
    chosen = select_methods(codec.methods, [name], edits)
    if len(chosen) > 1:
        raise UsageError(f"{name!r} stands for {len(chosen)} methods", where="--with", hint="name one method")
    return chosen[0]


def compress_bytes(codec: TextCodec, data: bytes, log: RunLog, portable: bool | None = None) -> bytes:
    """Compress any bytes to the contents of a .bgz file, by the `default_method` of the artifact.

    portable: see `choose_arithmetic`.
    """
    target = io.BytesIO()
    _compress(codec, default_method(codec.methods), io.BytesIO(data), len(data), target, log, portable)
    return target.getvalue()


def _compress(
    codec: TextCodec,
    method: Spec[ScoringMethod],
    source: BinaryIO,
    size: int,
    target: BinaryIO,
    log: RunLog,
    portable: bool | None,
) -> file_blocks.FileSizes:
    """Compress a stream. size: its bytes, 0 if it is not known."""
    encoder, work = compress.Encoder(codec, method, portable=portable), WorkProgress(log.progress, "compress", "bytes")
    if portable is None:
        report_arithmetic(encoder.arithmetic.name, encoder.method, log)
    size_of_block, threads = file_blocks.block_bytes(encoder), torch.get_num_threads()
    blocks = iter(lambda: source.read(size_of_block), b"")
    start = next(blocks, b"")
    documents = file_blocks.documents_of_block(encoder, start) or []
    if sum(map(len, documents)) >= LEAST_MEASURED:
        speed = measure_speed(encoder, documents)
        announce("compress", speed, max(1.0, size / len(start) / threads) * speed.seconds, log)
        work.restart(0)

    def report(done: int, bits: float) -> None:
        work.update(done, size, f"{bits / max(done, 1):.4f} bpb")

    pieces = chain([start] if start else [], blocks)
    return file_blocks.compress_file(encoder, pieces, target, threads=threads, progress=report)


def announce(stage: str, speed: Speed, seconds: float, log: RunLog) -> None:
    """Say how long coding will take if that is long. seconds: of all texts."""
    if seconds >= LEAST_ANNOUNCED:
        log.info(f"{stage}: about {duration(seconds)} at {speed.tokens_per_second:,.0f} tokens/s")


def report_arithmetic(arithmetic: str, method: ScoringMethod, log: RunLog) -> None:
    """Say so if the default of portable arithmetic does not apply to a method."""
    if arithmetic == NativeArithmetic.name:
        reason = f"method {method.name!r} {method.native_only}, so native arithmetic is used"
        log.info(f"{reason}: decompress with the same torch version on the same kind of processor")


def decompress_bytes(codec: TextCodec, data: bytes, log: RunLog) -> list[bytes]:
    """Return the documents in the contents of a .bgz file. Raises the errors of `compress.decompress`."""
    file = compress.CompressedFile(codec, io.BytesIO(data))
    return [text for texts in _texts(file, log) for text in texts]


def _texts(file: compress.CompressedFile, log: RunLog) -> Iterator[list[bytes]]:
    work = WorkProgress(log.progress, "decompress", "bytes")
    return file.texts(torch.get_num_threads(), lambda done, bits: work.update(done, file.bytes))


def compress_file(job: CodingJob) -> CompressResult:
    """Compress `job.source` to `job.target`; returns sizes and bits per byte.

    Raises `UsageError` if the source cannot be read, or the target exists and `job.force` is not set.
    """
    started, log = time.perf_counter(), RunLog()
    _check_target(job)
    if job.target == STREAM and sys.stdout.isatty():
        cause = "a compressed file is not written to a terminal"
        raise UsageError(cause, where="OUT", hint="name a file, or pass the output to a pipe")
    with _opened_source(job.source) as (source, size):
        log.progress(Progress("compress"))
        codec = text_codec(load_model(job.artifact))
        method = chosen_method(codec, job.method, job.edits)
        with _opened_target(job.target) as target:
            sizes = _compress(codec, method, source, size, target, log, job.portable)
    return CompressResult(
        bytes_in=sizes.bytes_in,
        bytes_out=sizes.bytes_out,
        bytes_stored=sizes.stored,
        bpb_coded=8 * sizes.bytes_out / sizes.bytes_in if sizes.bytes_in else 0.0,
        bpb_predicted=sizes.bits / sizes.bytes_in if sizes.bytes_in else 0.0,
        method=method().name,
        arithmetic=sizes.arithmetic,
        seconds=round(time.perf_counter() - started, 3),
    )


def decompress_file(job: CodingJob) -> DecompressResult:
    """Decompress `job.source` and write its documents, joined, to `job.target`; returns sizes.

    Raises `UsageError` if the source cannot be read, or the target exists and `job.force` is not set, and
    `CorruptFileError` if the source is damaged, before anything is written.
    """
    started, log, lengths = time.perf_counter(), RunLog(), list[int]()
    _check_target(job)
    with _opened_source(job.source) as (source, _), _seekable(source) as whole, error_location(str(job.source)):
        log.progress(Progress("decompress"))
        file = compress.CompressedFile(text_codec(load_model(job.artifact)), whole)
        with _opened_target(job.target) as target:
            for texts in _texts(file, log):
                target.write(b"".join(texts))
                lengths += map(len, texts)
    seconds = round(time.perf_counter() - started, 3)
    return DecompressResult(bytes_in=file.size, bytes_out=sum(lengths), documents=lengths, seconds=seconds)


def compress_in_worker(job: CodingJob) -> CompressResult:
    """Run `compress_file` in a process of its own."""
    return run_worker(compress_file, job, task="compression", where=job.source)


def decompress_in_worker(job: CodingJob) -> DecompressResult:
    """Run `decompress_file` in a process of its own."""
    return run_worker(decompress_file, job, task="decompression", where=job.source)


# ---- files and standard streams --------------------------------------------------------------------------------------


def _check_target(job: CodingJob) -> None:
    if job.target != STREAM and job.target.exists() and not job.force:
        raise UsageError("the file exists", where=str(job.target), hint="choose another name, or add --force")


@contextmanager
def _opened_source(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The file, and its size, 0 if it is not known. Raises `UsageError` if it cannot be read."""
    if path == STREAM:
        yield sys.stdin.buffer, 0
        return
    try:
        source = path.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read it: {error.strerror}", where=str(path)) from error
    with source:
        yield source, path.stat().st_size


@contextmanager
def _seekable(source: BinaryIO) -> Iterator[BinaryIO]:
    """The source itself, or a temporary copy of a pipe."""
    if source.seekable():
        yield source
        return
    with tempfile.TemporaryFile(prefix="bitgolf-") as copy:
        shutil.copyfileobj(source, copy)
        yield copy


@contextmanager
def _opened_target(path: Path) -> Iterator[BinaryIO]:
    """A file that is complete or not there at all, or standard output."""
    if path == STREAM:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with atomic_write(path) as handle:
        yield handle  # pyright: ignore[reportReturnType]
