"""Compression and decompression of a file with an artifact, in this process or in a process of their own."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from bitgolf.artifact.model import LoadedArtifact, load_model
from bitgolf.errors import UsageError, error_location
from bitgolf.files import write_bytes
from bitgolf.report.log import RunLog
from bitgolf.report.progress import Progress, WorkProgress
from bitgolf.runtime.launch import run_worker
from bitgolf.score.callbacks import bits_progress
from bitgolf.score.coding import compress
from bitgolf.score.coding.arithmetic import NativeArithmetic
from bitgolf.score.coding.bgz_format import TextCodec
from bitgolf.score.result import CompressResult, DecompressResult


class CodingJob(msgspec.Struct, frozen=True):
    """A file to read, a file to write, and the artifact whose model predicts the text.

    portable: the arithmetic of compression, see `choose_arithmetic`. A file to decompress states its own.
    """

    artifact: Path
    source: Path
    target: Path
    portable: bool | None = None


def text_codec(loaded: LoadedArtifact) -> TextCodec:
    """The text codec of an artifact, with the scoring methods of its recipe."""
    return TextCodec(loaded.model, loaded.tokenizer, loaded.digest, loaded.recipe.score)


def compress_bytes(codec: TextCodec, data: bytes, log: RunLog, portable: bool | None = None) -> compress.Compressed:
    """Compress any bytes to the contents of a .bgz file, by the `default_method` of the artifact.

    portable: see `choose_arithmetic`.
    """
    method, progress = compress.default_method(codec.methods), bits_progress(log.progress, "compress", len(data))
    documents = compress.split_file(codec, data)
    result = compress.compress(codec, documents, method=method, portable=portable, progress=progress)
    if portable is None:
        report_arithmetic(result.arithmetic, method().name, log)
    return result


def report_arithmetic(arithmetic: str, method: str, log: RunLog) -> None:
    """Say so if the default of portable arithmetic does not apply to a method."""
    if arithmetic == NativeArithmetic.name:
        reason = f"method {method!r} updates weights, so native arithmetic was used"
        log.info(f"{reason}: decompress with the same torch version on the same kind of processor")


def decompress_bytes(codec: TextCodec, data: bytes, log: RunLog) -> list[bytes]:
    """Return the documents in the contents of a .bgz file. Raises the errors of `compress.decompress`."""
    work = WorkProgress(log.progress, "decompress", "tokens")
    return compress.decompress(codec, data, lambda done, count, bits: work.update(done, count))


def compress_file(job: CodingJob) -> CompressResult:
    """Compress `job.source` to `job.target`; returns sizes and bits per byte.

    The method is the last one of the recipe that supports coding. Raises `UsageError` if the source cannot be read.
    """
    started, log, data = time.perf_counter(), RunLog(), _read(job.source)
    log.progress(Progress("compress"))
    codec, per_byte = text_codec(load_model(job.artifact)), max(len(data), 1)
    result = compress_bytes(codec, data, log, job.portable)
    write_bytes(job.target, result.data)
    return CompressResult(
        bytes_in=len(data),
        bytes_out=len(result.data),
        bpb_coded=8 * len(result.data) / per_byte,
        bpb_predicted=result.bits / per_byte,
        method=compress.default_method(codec.methods)().name,
        arithmetic=result.arithmetic,
        seconds=round(time.perf_counter() - started, 3),
    )


def decompress_file(job: CodingJob) -> DecompressResult:
    """Decompress `job.source` and write its documents, joined, to `job.target`; returns sizes.

    Raises `UsageError` if the source cannot be read, and `CorruptFileError` if it is damaged.
    """
    started, log, data = time.perf_counter(), RunLog(), _read(job.source)
    log.progress(Progress("decompress"))
    codec = text_codec(load_model(job.artifact))
    with error_location(str(job.source)):
        texts = decompress_bytes(codec, data, log)
    write_bytes(job.target, b"".join(texts))
    lengths = [len(text) for text in texts]
    seconds = round(time.perf_counter() - started, 3)
    return DecompressResult(bytes_in=len(data), bytes_out=sum(lengths), documents=lengths, seconds=seconds)


def compress_in_worker(job: CodingJob) -> CompressResult:
    """Run `compress_file` in a process of its own."""
    return run_worker(compress_file, job, task="compression", where=job.source)


def decompress_in_worker(job: CodingJob) -> DecompressResult:
    """Run `decompress_file` in a process of its own."""
    return run_worker(decompress_file, job, task="decompression", where=job.source)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read it: {error.strerror}", where=str(path)) from error
