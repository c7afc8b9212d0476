"""The proof of a score by compression: what is claimed is coded, committed to, and a sample of it is restored.

A text's documents are put in groups, in their order. Each group is a file that `coder` writes. `commitment.json` names
every file's SHA-256 beside the bits that the referee charges its documents; it stands before anything is decoded. It
and a challenge, if somebody has one, decide which groups another process restores from the artifact alone. Whoever
doubts can take another challenge, or all groups; a prover who tries commitments until a sample suits cannot know it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch

from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, FormatVersionError, UsageError, error_location
from bitgolf.files import json_digest, read_json, write_bytes, write_json
from bitgolf.report.log import RunLog
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.callbacks import LogLine
from bitgolf.score.coding import compress
from bitgolf.score.coding.bgz_format import TextCodec, encode_method
from bitgolf.score.coding.predictor import CPU_FLOAT32
from bitgolf.score.coding.sampling import CONFIDENCE, max_false_fraction, sample_groups
from bitgolf.score.methods import ScoringMethod
from bitgolf.score.referee import score
from bitgolf.score.result import ProofResult, ProofSeconds
from bitgolf.score.text import TokenizedText
from bitgolf.tokens.tokenizer import Ids, Tokenizer

FORMAT = 2
"""Version of `commitment.json`, `group_bits.json` and `proof.json`."""

Restore = Callable[[Path, Path, Path, LogLine], list[int]]
"""Decompresses a file in another process: artifact, .bgz file, target, and where its progress goes. Returns the length of
each document in bytes."""


class DocumentGroup(NamedTuple):
    """Documents that are coded together: their tokens, without BOS, and their targets start … stop-1 in the text."""

    number: int
    start: int
    stop: int
    documents: list[Ids]

    def decode(self, tokenizer: Tokenizer) -> list[bytes]:
        return [tokenizer.decode(document) for document in self.documents]


class ProofTask(NamedTuple):
    """What is to be proved: that the artifact scores `text` so, with a method and each document by itself.

    artifact: its file; tokens: of a group, at least; rows: documents that are coded side by side.
    """

    artifact: Path
    codec: TextCodec
    text: TokenizedText
    method: Spec[ScoringMethod]
    group_targets: int = 200_000  # so the 60 bytes around a payload are less than 0.1 % of it
    rows: int = 64

    @property
    def isolated_method(self) -> ScoringMethod:
        """The method on documents by themselves: what is scored, and what is coded."""
        spec = self.method
        return spec.replace(isolated=True)() if "isolated" in spec.kwargs else spec()


def prove(claim: ProofTask, folder: Path, *, sample: int, challenge: str, log: RunLog, restore: Restore) -> ProofResult:
    """Score, code, commit, draw and restore. Writes `commitment.json`, a file for each group, and `proof.json`.

    sample: groups that are restored, 0 for all. What an earlier call has scored or coded is taken from the folder.
    Raises `BitgolfError` with group, document and token where something does not come back.
    """
    _read(folder / "commitment.json")
    groups, clock = list(group_documents(claim)), time.perf_counter
    times = [clock()]
    bits = _score_groups(claim, groups, folder, log)
    times.append(clock())
    files = [_compress_group(claim, group, folder, log, len(groups)) for group in groups]
    times.append(clock())
    commitment = _write_commitment(claim, groups, bits, files, folder)
    chosen = sample_groups(commitment, challenge, len(groups), sample)
    for number in chosen:
        log.info(f"group {number} of {len(groups)} is restored by another process")
        with error_location(f"group {number} ({files[number].name})"):
            _verify(claim, groups[number], files[number], restore, log.progress)
    times.append(clock())
    spent = [round(end - start, 1) for start, end in pairwise(times)]
    seconds = ProofSeconds(score=spent[0], compress=spent[1], decompress=spent[2])
    result = _result(claim, sum(bits), files, chosen, challenge, seconds)
    write_json(folder / "proof.json", msgspec.to_builtins(result))
    return result


def leading_documents(text: TokenizedText, tokenizer: Tokenizer, size: int) -> TokenizedText:
    """The first documents of a text that have `size` bytes together, or all of it."""
    total, end = 0, 0
    for start, stop in text.documents():
        total, end = total + len(tokenizer.decode(text.tokens[start + 1 : stop])), stop
        if total >= size:
            break
    return text._replace(tokens=text.tokens[: end + 1], bytes=total)


def group_documents(claim: ProofTask) -> Iterator[DocumentGroup]:
    """Documents in their order, in groups of at least so many targets. Raises where the text's bytes are not its own."""
    text, tokenizer = claim.text, claim.codec.tokenizer
    if not text.num_targets or text.tokens[0] != text.bos:
        raise BitgolfError("a text that is proved begins with a document", where="compress --proof")
    own = len(tokenizer.decode(text.tokens))
    if own != text.bytes:
        cause = f"the text is said to have {text.bytes:,} bytes, and its tokens have {own:,}"
        raise BitgolfError(cause, where="compress --proof", hint="prove raw text, with --text")
    documents, number, start = list[Ids](), 0, 0
    for begin, stop in text.documents():
        documents.append(text.tokens[begin + 1 : stop].astype(np.int32))
        if stop - start >= claim.group_targets or stop == text.num_targets:
            yield DocumentGroup(number, start, stop, documents)
            documents, number, start = [], number + 1, stop


# ---- what is claimed, and coded -------------------------------------------------------------------------------------


def _key(claim: ProofTask, *what: Any) -> str:
    """The name of what follows from the artifact, the method, the text and the machine."""
    how = encode_method(claim.codec, claim.method)
    return json_digest([claim.codec.digest.hex(), how, claim.rows, torch.__version__, *what])


def _read(path: Path) -> dict[str, Any]:
    """A file that an earlier call left, {} if there is none. Raises `FormatVersionError` if its format is another."""
    known = read_json(path) if path.exists() else {"format": FORMAT}
    if known.get("format") != FORMAT:
        raise FormatVersionError(path.name, found=known.get("format"), supported=FORMAT, where=str(path))
    return {key: value for key, value in known.items() if key != "format"}


def _digest(group: DocumentGroup) -> str:
    ended = [np.append(document, -1) for document in group.documents]
    return hashlib.sha256(np.concatenate(ended).astype("<i4").tobytes()).hexdigest()


def _score_groups(claim: ProofTask, groups: Sequence[DocumentGroup], folder: Path, log: RunLog) -> list[float]:
    """The bits of each group, as the referee charges them: an ordinary score, on the CPU in float32."""
    key, path = _key(claim, *map(_digest, groups)), folder / "group_bits.json"
    if (known := _read(path)) and known["key"] == key:
        return known["bits"]
    text, method, charges = claim.text, claim.isolated_method, np.zeros(claim.text.num_targets)

    def progress(done: int, targets: int, bits: float) -> None:
        bpb = bits / done * targets / text.bytes
        log.progress(f"score: {done:,} / {targets:,} targets, {bpb:.4f} bits per byte so far")

    with closing(
        method.make_player(claim.codec.model, claim.codec.tokenizer.vocab, CPU_FLOAT32, SINGLE_PROCESS)
    ) as player:
        score(player, text, method, progress=progress, charges=charges)
    bits = [float(charges[group.start : group.stop].sum()) for group in groups]
    write_json(path, {"format": FORMAT, "key": key, "bits": bits})
    return bits


def _compress_group(claim: ProofTask, group: DocumentGroup, folder: Path, log: RunLog, groups: int) -> Path:
    """The group's file. Its name holds the hash of all that it follows from, so what is there need not be made again."""
    path = folder / f"{group.number:05d}-{_key(claim, _digest(group))}.bgz"
    if path.exists():
        return path
    size, targets = sum(map(len, group.decode(claim.codec.tokenizer))), group.stop - group.start

    def progress(done: int, count: int, bits: float) -> None:
        bpb = bits / done * targets / max(size, 1)
        log.progress(f"group {group.number} of {groups}: {done:,} / {count:,} tokens, {bpb:.4f} bits per byte so far")

    with error_location(f"group {group.number}"):
        made = compress.compress(claim.codec, group.documents, method=claim.method, rows=claim.rows, progress=progress)
    write_bytes(path, made.data)
    return path


def _write_commitment(
    claim: ProofTask, groups: Sequence[DocumentGroup], bits: Sequence[float], files: Sequence[Path], folder: Path
) -> bytes:
    """Write the commitment. What a folder has once been committed to stays."""
    method = claim.isolated_method
    document = {
        "format": FORMAT,
        "artifact_sha256": hashlib.sha256(claim.artifact.read_bytes()).hexdigest(),
        "method": {"name": method.name, "window": method.window, "stride": method.stride, "isolated": True},
        "bytes": claim.text.bytes,
        "targets": claim.text.num_targets,
        "bits": sum(bits),
        "groups": [_committed(claim, *group) for group in zip(groups, bits, files, strict=True)],
    }
    path, data = folder / "commitment.json", (json.dumps(document, indent=1) + "\n").encode()
    if path.exists() and path.read_bytes() != data:
        raise UsageError("this folder is committed to another proof", where=str(path), hint="name another folder")
    write_bytes(path, data)
    return data


def _committed(claim: ProofTask, group: DocumentGroup, bits: float, file: Path) -> dict[str, Any]:
    """What the commitment says of a group."""
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


# ---- what is restored -----------------------------------------------------------------------------------------------


def _verify(claim: ProofTask, group: DocumentGroup, file: Path, restore: Restore, log: LogLine) -> None:
    """Another process restores the group's file; raises at the first document that is not the text's."""
    with tempfile.TemporaryDirectory(prefix="bitgolf-proof-") as name:
        target = Path(name) / "restored"
        lengths = restore(claim.artifact, file, target, log)
        restored, start = target.read_bytes(), 0
    wanted = group.decode(claim.codec.tokenizer)
    if len(lengths) != len(wanted):
        raise BitgolfError(f"{len(lengths)} documents came back, not {len(wanted)}")
    for i, (length, text) in enumerate(zip(lengths, wanted, strict=True)):
        if restored[start : start + length] != text:
            raise BitgolfError(f"document {i} of the group came back as another")
        start += length


def _result(
    claim: ProofTask, bits: float, files: Sequence[Path], chosen: list[int], challenge: str, seconds: ProofSeconds
) -> ProofResult:
    size, count, method = claim.text.bytes, sum(file.stat().st_size for file in files), claim.isolated_method
    return ProofResult(
        format=FORMAT,
        artifact=str(claim.artifact),
        method=method.name,
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
        sampled=chosen,
        challenge=challenge,
        verified=True,
        max_false_fraction=max_false_fraction(len(chosen), len(files)),
        confidence=CONFIDENCE,
        seconds=seconds,
    )
