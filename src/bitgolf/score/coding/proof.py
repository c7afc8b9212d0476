"""The proof of a score by compression: compress the text, commit to the files, decompress a random sample of them.

The documents are divided into groups, in order; a method by which earlier documents change later ones has one group.
Each group is compressed to one file (`compress`). `commitment.json`
contains the SHA-256 of every file and the bits that the referee computed for its documents; it is written before
anything is decompressed. The commitment and an optional challenge determine the sample of groups that another process
decompresses with the artifact alone. A verifier can choose another challenge, or check all groups. The prover cannot
know that challenge, so it cannot choose a commitment that yields a favorable sample.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from bitgolf.errors import BitgolfError, FormatVersionError, UsageError, error_location
from bitgolf.files import json_digest, read_json, write_bytes, write_json
from bitgolf.report.log import RunLog
from bitgolf.report.progress import WorkProgress, duration
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.callbacks import bits_progress
from bitgolf.score.coding import compress
from bitgolf.score.coding.bgz_format import MAGIC, encode_method
from bitgolf.score.coding.block_threads import SharedProgress, can_share_model, in_order
from bitgolf.score.coding.open_predictor import CPU_FLOAT32, batch_tokens, num_rows
from bitgolf.score.coding.proof_task import DocumentGroup, ProofTask, group_documents
from bitgolf.score.coding.sampling import CONFIDENCE, max_false_fraction, sample_groups
from bitgolf.score.coding.speed import measure_speed
from bitgolf.score.referee import score
from bitgolf.score.result import ProofResult, ProofSeconds

FORMAT = 2
"""Version of `commitment.json`, `group_bits.json` and `proof.json`."""

LEAST_ANNOUNCED, DEFAULT_BATCH_TOKENS = 30.0, 4096
"""Seconds from which on the time is said in advance; tokens per batch of a score."""

Restore = Callable[[Path, Path, Path], list[int]]
"""Decompresses a file in another process. Arguments: artifact, .bgz file, target. Returns the length of each document in
bytes."""


def prove(claim: ProofTask, folder: Path, *, sample: int, challenge: str, log: RunLog, restore: Restore) -> ProofResult:
    """Score, compress, commit, draw a sample and decompress it.

    Writes `commitment.json`, one file per group, and `proof.json` to `folder`, and reuses what an earlier call wrote.
    sample: number of groups to decompress, 0 for all. Raises `BitgolfError`, with group and document, if a document is
    not restored.
    """
    log.detail(f"coding in {claim.arithmetic} arithmetic")
    _read(folder / "commitment.json")
    groups, clock = list(group_documents(claim)), time.perf_counter
    _announce(claim, groups, folder, log)
    times = [clock()]
    bits = _score_groups(claim, groups, folder, log)
    times.append(clock())
    files = _compress_groups(claim, groups, folder, log)
    times.append(clock())
    commitment = _write_commitment(claim, groups, bits, files, folder)
    sampled = sample_groups(commitment, challenge, len(groups), sample)
    for number in sampled:
        log.info(f"group {number} of {len(groups)}: decompressing in another process")
        with error_location(f"group {number} ({files[number].name})"):
            _verify(claim, groups[number], files[number], restore)
    times.append(clock())
    spent = [round(end - start, 1) for start, end in pairwise(times)]
    seconds = ProofSeconds(score=spent[0], compress=spent[1], decompress=spent[2])
    result = _result(claim, sum(bits), files, sampled, challenge, seconds)
    write_json(folder / "proof.json", msgspec.to_builtins(result))
    return result


def _announce(claim: ProofTask, groups: Sequence[DocumentGroup], folder: Path, log: RunLog) -> None:
    """Say how long the groups that are not compressed yet will take, if that is long."""
    left = [group for group in groups if not _compressed_path(claim, group, folder).exists()]
    if not left:
        return
    encoder = compress.Encoder(claim.codec, claim.method, rows=claim.rows, portable=claim.portable)
    speed = measure_speed(encoder, left[0].documents)
    threads = min(len(left), torch.get_num_threads()) if can_share_model(claim.proved_method) else 1
    seconds = sum(group.stop - group.start for group in left) / speed.tokens_per_second / threads
    if seconds >= LEAST_ANNOUNCED:
        rate = f"{speed.tokens_per_second:,.0f} tokens/s"
        log.info(
            f"compression will take about {duration(seconds)} at {rate}, and restoring as long for the same groups"
        )


# ---- scores and compressed files ------------------------------------------------------------------------------------


def _key(claim: ProofTask, *inputs: Any) -> str:
    """Cache key of a result: a digest of model, method, rows, torch version, format of files and further inputs."""
    method = encode_method(claim.codec, claim.method)
    return json_digest([claim.codec.digest.hex(), method, claim.rows, torch.__version__, MAGIC[3], *inputs])


def _read(path: Path) -> dict[str, Any]:
    """The contents of an earlier call's file, {} if there is none. Raises `FormatVersionError` for another format."""
    contents = read_json(path) if path.exists() else {"format": FORMAT}
    if contents.get("format") != FORMAT:
        raise FormatVersionError(path.name, found=contents.get("format"), supported=FORMAT, where=str(path))
    return {key: value for key, value in contents.items() if key != "format"}


def _digest(group: DocumentGroup) -> str:
    ended = [np.append(document, -1) for document in group.documents]
    return hashlib.sha256(np.concatenate(ended).astype("<i4").tobytes()).hexdigest()


def _score_groups(claim: ProofTask, groups: Sequence[DocumentGroup], folder: Path, log: RunLog) -> list[float]:
    """The bits of each group from a score by the referee, on the CPU in float32. Cached in `group_bits.json`."""
    key, path = _key(claim, *map(_digest, groups)), folder / "group_bits.json"
    if (cached := _read(path)) and cached["key"] == key:
        return cached["bits"]
    method, charges, order_bits, rows = claim.proved_method, np.zeros(claim.text.num_targets), 0, claim.rows
    text, tokens = claim.text, DEFAULT_BATCH_TOKENS
    if method.cross_document:  # the coder follows the same order and the same plan
        (text, order_bits), rows = method.order.apply(text), num_rows(method, rows, len(text.documents()))
        tokens = batch_tokens(method, rows)
    progress = bits_progress(log.progress, "score", text.bytes)
    with closing(
        method.make_player(claim.codec.model, claim.codec.tokenizer.vocab, CPU_FLOAT32, SINGLE_PROCESS)
    ) as player:
        score(player, text, method, batch_tokens=tokens, progress=progress, charges=charges)
    bits = [float(charges[group.start : group.stop].sum()) + order_bits for group in groups]
    write_json(path, {"format": FORMAT, "key": key, "bits": bits})
    return bits


def _compress_groups(claim: ProofTask, groups: Sequence[DocumentGroup], folder: Path, log: RunLog) -> list[Path]:
    """Compress all groups, as many at a time as torch has threads. A file that an earlier call wrote is reused."""
    work, total = WorkProgress(log.progress, "compress", "bytes"), claim.text.bytes
    shared = SharedProgress(lambda done, bits: work.update(done, total, f"{bits / max(done, 1):.4f} bpb"))
    paths = [_compressed_path(claim, group, folder) for group in groups]
    sizes = [sum(map(len, group.decode(claim.codec.tokenizer))) for group in groups]
    work.restart(sum(size for path, size in zip(paths, sizes, strict=True) if path.exists()))

    def compressed(group: DocumentGroup) -> Path:
        path, size = paths[group.number], sizes[group.number]
        if path.exists():
            shared.finish(size, 8.0 * path.stat().st_size)
            return path
        words = {"method": claim.method, "rows": claim.rows, "portable": claim.portable}
        with error_location(f"group {group.number}"):
            file = compress.compress(claim.codec, group.documents, **words, progress=shared.of_block(size))
        write_bytes(path, file.data)
        shared.finish(size, file.bits)
        return path

    threads = torch.get_num_threads() if can_share_model(claim.proved_method) else 1
    return list(in_order(compressed, groups, threads, shared.stop))


def _compressed_path(claim: ProofTask, group: DocumentGroup, folder: Path) -> Path:
    """The file of a group. Its name contains the key of what it depends on."""
    return folder / f"{group.number:05d}-{_key(claim, claim.arithmetic, _digest(group))}.bgz"


def _write_commitment(
    claim: ProofTask, groups: Sequence[DocumentGroup], bits: Sequence[float], files: Sequence[Path], folder: Path
) -> bytes:
    """Write `commitment.json` and return its bytes. Raises `UsageError` if the folder has a different commitment."""
    method = claim.proved_method
    document = {
        "format": FORMAT,
        "artifact_sha256": hashlib.sha256(claim.artifact.read_bytes()).hexdigest(),
        "method": {"name": method.name, "window": method.window, "stride": method.stride, "isolated": method.isolated},
        "bytes": claim.text.bytes,
        "targets": claim.text.num_targets,
        "bits": sum(bits),
        "groups": [_committed(claim, *group) for group in zip(groups, bits, files, strict=True)],
    }
    path, data = folder / "commitment.json", (json.dumps(document, indent=1) + "\n").encode()
    if path.exists() and path.read_bytes() != data:
        digest = hashlib.sha256(data).hexdigest()
        cause = f"the folder is committed to another proof; the commitment to this one has SHA-256 {digest}"
        raise UsageError(cause, where=str(path), hint="choose another folder")
    write_bytes(path, data)
    return data


def _committed(claim: ProofTask, group: DocumentGroup, bits: float, file: Path) -> dict[str, Any]:
    """The entry of a group in the commitment."""
    texts = group.decode(claim.codec.tokenizer)
    return {
        "file": file.name,
        "documents": len(texts),
        "targets": group.stop - group.start,
        "bytes": sum(map(len, texts)),
        "text_sha256": hashlib.sha256(b"".join(texts)).hexdigest(),
        "bits": bits,
        "coded_bytes": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }


# ---- verification and result ----------------------------------------------------------------------------------------


def _verify(claim: ProofTask, group: DocumentGroup, file: Path, restore: Restore) -> None:
    """Decompress a group in another process. Raises `BitgolfError` at the first document that is not the original."""
    with tempfile.TemporaryDirectory(prefix="bitgolf-proof-") as name:
        target = Path(name) / "restored"
        lengths = restore(claim.artifact, file, target)
        restored, start = target.read_bytes(), 0
    originals = group.decode(claim.codec.tokenizer)
    if len(lengths) != len(originals):
        raise BitgolfError(f"decompression yields {len(lengths)} documents instead of {len(originals)}")
    for i, (length, text) in enumerate(zip(lengths, originals, strict=True)):
        if restored[start : start + length] != text:
            cause = f"document {i} of the group is not restored: {length:,} bytes, original {len(text):,} bytes"
            raise BitgolfError(cause)
        start += length


def _result(
    claim: ProofTask, bits: float, files: Sequence[Path], sampled: list[int], challenge: str, seconds: ProofSeconds
) -> ProofResult:
    size, count, method = claim.text.bytes, sum(file.stat().st_size for file in files), claim.proved_method
    return ProofResult(
        format=FORMAT,
        artifact=str(claim.artifact),
        method=method.name,
        arithmetic=claim.arithmetic,
        window=method.window,
        stride=method.stride,
        bytes=size,
        targets=claim.text.num_targets,
        claimed_bits=bits,
        claimed_bpb=bits / size,
        coded_bytes=count,
        coded_bpb=8 * count / size,
        overhead_percent=100 * (8 * count / bits - 1),
        groups=len(files),
        sampled=sampled,
        challenge=challenge,
        verified=True,
        max_false_fraction=max_false_fraction(len(sampled), len(files)),
        confidence=CONFIDENCE,
        seconds=seconds,
    )
