"""The proof of a score by compression: what is claimed is coded, committed to, and a sample of it is restored.

A text's documents are put in groups, in their order. Each group is a file that `coder` writes. `commitment.json` names
every file's SHA-256 beside the bits that the referee charges its documents; it stands before anything is decoded. It
and a challenge, if somebody has one, decide which groups another process restores from the artifact alone. Whoever
doubts can take another challenge, or all groups; a prover who tries commitments until a sample suits cannot know it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bitgolf.errors import BitgolfError, UsageError, at
from bitgolf.files import read_json, value_digest, write_bytes, write_json
from bitgolf.report.log import Journal
from bitgolf.runtime.distributed import ALONE
from bitgolf.score.coding import compress
from bitgolf.score.coding.predictor import CPU
from bitgolf.score.methods import Method
from bitgolf.score.referee import score
from bitgolf.score.text import Text
from bitgolf.tokens.tokenizer import Ids, Tokenizer

CONFIDENCE = 0.95
Tell = Callable[[str], None]


class Group(NamedTuple):
    """Documents that are coded together: their tokens, without BOS, and their targets start … stop-1 in the text."""

    number: int
    start: int
    stop: int
    documents: list[Ids]

    def texts(self, tokenizer: Tokenizer) -> list[bytes]:
        return [tokenizer.decode(document) for document in self.documents]


class Claim(NamedTuple):
    """What is to be proved: that the artifact scores `text` so, with a method and each document by itself.

    artifact: its file; tokens: of a group, at least; rows: documents that are coded side by side.
    """

    artifact: Path
    codec: compress.Codec
    text: Text
    method: Method
    tokens: int = 200_000  # so the 60 bytes around a payload are less than 0.1 % of it
    rows: int = 64

    @property
    def alone(self) -> Method:
        """The method on documents by themselves: what is scored, and what is coded."""
        method = copy.copy(self.method)
        method.isolated = True
        return method


def prove(claim: Claim, folder: Path, *, sample: int, challenge: str, journal: Journal) -> dict[str, Any]:
    """Score, code, commit, draw and restore. Writes `commitment.json`, a file for each group, and `proof.json`.

    sample: groups that are restored, 0 for all. What an earlier call has scored or coded is taken from the folder.
    Raises `BitgolfError` with group, document and token where something does not come back.
    """
    groups = list(grouped(claim))
    seconds, clock = {}, time.perf_counter
    started = clock()
    bits = _claimed(claim, groups, folder, journal)
    seconds["score"], started = round(clock() - started, 1), clock()
    files = [_coded(claim, group, folder, journal, len(groups)) for group in groups]
    seconds["code"], started = round(clock() - started, 1), clock()
    commitment = _commit(claim, groups, bits, files, folder)
    chosen = draw(commitment, challenge, len(groups), sample)
    for number in chosen:
        journal.say(f"group {number} of {len(groups)} is restored by another process")
        with at(f"group {number} ({files[number].name})"):
            _verify(claim, groups[number], files[number], journal.progress)
    seconds["decode"] = round(clock() - started, 1)
    report = _report(claim, sum(bits), files, chosen, challenge) | {"seconds": seconds}
    write_json(folder / "proof.json", report)
    return report


def first(text: Text, tokenizer: Tokenizer, size: int) -> Text:
    """The first documents of a text that have `size` bytes together, or all of it."""
    total, end = 0, 0
    for start, stop in text.documents():
        total, end = total + len(tokenizer.decode(text.tokens[start + 1 : stop])), stop
        if total >= size:
            break
    return text._replace(tokens=text.tokens[: end + 1], bytes=total)


def grouped(claim: Claim) -> Iterator[Group]:
    """Documents in their order, in groups of at least so many targets. Raises where the text's bytes are not its own."""
    text, tokenizer = claim.text, claim.codec.tokenizer
    if not text.targets or text.tokens[0] != text.bos:
        raise BitgolfError("a text that is proved begins with a document", place="compress --proof")
    own = len(tokenizer.decode(text.tokens))
    if own != text.bytes:
        cause = f"the text is said to have {text.bytes:,} bytes, and its tokens have {own:,}"
        raise BitgolfError(cause, place="compress --proof", mend="prove raw text, with --text")
    documents, number, start = list[Ids](), 0, 0
    for begin, stop in text.documents():
        documents.append(text.tokens[begin + 1 : stop].astype(np.int32))
        if stop - start >= claim.tokens or stop == text.targets:
            yield Group(number, start, stop, documents)
            documents, number, start = [], number + 1, stop


def draw(commitment: bytes, challenge: str, groups: int, sample: int) -> list[int]:
    """Which groups are restored: those whose number, hashed with the commitment and the challenge, comes first."""
    seed = hashlib.sha256(commitment + challenge.encode()).digest()
    order = sorted(range(groups), key=lambda i: hashlib.sha256(seed + i.to_bytes(4, "big")).digest())
    return sorted(order[: sample or groups])


def false_share(sample: int, groups: int) -> float:
    """The largest share of false groups that escapes a sample with a chance of 5 %: (1 - f)^n = 0.05."""
    return 0.0 if sample >= groups else 1 - (1 - CONFIDENCE) ** (1 / sample)


# ---- what is claimed, and coded -------------------------------------------------------------------------------------


def _key(claim: Claim, *what: Any) -> str:
    """The name of what follows from the artifact, the method, the text and the machine."""
    how = compress.method_numbers(claim.codec, claim.method)
    return value_digest([claim.codec.digest.hex(), how, claim.rows, torch.__version__, *what])


def _digest(group: Group) -> str:
    ended = [np.append(document, -1) for document in group.documents]
    return hashlib.sha256(np.concatenate(ended).astype("<i4").tobytes()).hexdigest()


def _claimed(claim: Claim, groups: Sequence[Group], folder: Path, journal: Journal) -> list[float]:
    """The bits of each group, as the referee charges them: an ordinary score, on the CPU in float32."""
    key, path = _key(claim, *map(_digest, groups)), folder / "claim.json"
    if path.exists() and (known := read_json(path))["key"] == key:
        return known["bits"]
    text, method, charges = claim.text, claim.alone, np.zeros(claim.text.targets)

    def progress(done: int, targets: int, bits: float) -> None:
        bpb = bits / done * targets / text.bytes
        journal.progress(f"score: {done:,} / {targets:,} targets, {bpb:.4f} bits per byte so far")

    with closing(method.player(claim.codec.model, claim.codec.tokenizer.vocab, CPU, ALONE)) as player:
        score(player, text, method, progress=progress, charges=charges)
    bits = [float(charges[group.start : group.stop].sum()) for group in groups]
    write_json(path, {"key": key, "bits": bits})
    return bits


def _coded(claim: Claim, group: Group, folder: Path, journal: Journal, groups: int) -> Path:
    """The group's file. Its name holds the hash of all that it follows from, so what is there need not be made again."""
    path = folder / f"{group.number:05d}-{_key(claim, _digest(group))}.bgz"
    if path.exists():
        return path
    size, targets = sum(map(len, group.texts(claim.codec.tokenizer))), group.stop - group.start

    def progress(done: int, count: int, bits: float) -> None:
        bpb = bits / done * targets / max(size, 1)
        journal.progress(
            f"group {group.number} of {groups}: {done:,} / {count:,} tokens, {bpb:.4f} bits per byte so far"
        )

    with at(f"group {group.number}"):
        made = compress.compress(claim.codec, group.documents, method=claim.method, rows=claim.rows, progress=progress)
    write_bytes(path, made.data)
    return path


def _commit(claim: Claim, groups: Sequence[Group], bits: Sequence[float], files: Sequence[Path], folder: Path) -> bytes:
    """Write the commitment. What a folder has once been committed to stays."""
    rows = []
    for group, charged, file in zip(groups, bits, files, strict=True):
        texts = group.texts(claim.codec.tokenizer)
        rows.append(
            {
                "file": file.name,
                "documents": len(texts),
                "targets": group.stop - group.start,
                "bytes": sum(map(len, texts)),
                "text_sha256": hashlib.sha256(b"".join(texts)).hexdigest(),
                "bits": charged,
                "coded_bytes": file.stat().st_size,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
        )
    method = {"name": claim.method.name, "window": claim.method.window, "stride": claim.method.stride, "isolated": True}
    document = {
        "artifact_sha256": hashlib.sha256(claim.artifact.read_bytes()).hexdigest(),
        "method": method,
        "bytes": claim.text.bytes,
        "targets": claim.text.targets,
        "bits": sum(bits),
        "groups": rows,
    }
    path, data = folder / "commitment.json", (json.dumps(document, indent=1) + "\n").encode()
    if path.exists() and path.read_bytes() != data:
        raise UsageError("this folder is committed to another proof", place=str(path), mend="name another folder")
    write_bytes(path, data)
    return data


# ---- what is restored -----------------------------------------------------------------------------------------------


def _verify(claim: Claim, group: Group, file: Path, tell: Tell) -> None:
    """Another process restores the group's file; raises at the first document that is not the text's."""
    with tempfile.TemporaryDirectory(prefix="bitgolf-proof-") as name:
        target = Path(name) / "restored"
        lengths = _restore(claim.artifact, file, target, tell)
        restored, start = target.read_bytes(), 0
    wanted = group.texts(claim.codec.tokenizer)
    if len(lengths) != len(wanted):
        raise BitgolfError(f"{len(lengths)} documents came back, not {len(wanted)}")
    for i, (length, text) in enumerate(zip(lengths, wanted, strict=True)):
        if restored[start : start + length] != text:
            raise BitgolfError(f"document {i} of the group came back as another")
        start += length


def _restore(artifact: Path, source: Path, target: Path, tell: Tell) -> list[int]:
    """`bitgolf decompress` in a process of its own: the documents' lengths. What it says last is its error, if it has one."""
    command = [sys.executable, "-m", "bitgolf", "decompress", *map(str, (artifact, source, target)), "--json"]
    said = list[str]()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        for line in process.stderr:
            said.append(line.rstrip())
            tell(said[-1])
        answer = process.stdout.read()
    if process.returncode:
        error = [line for line in said if not line.startswith("[")]
        raise BitgolfError("it cannot be restored: " + ("\n".join(error[-4:]) or f"exit status {process.returncode}"))
    return json.loads(answer)["documents"]


def _report(claim: Claim, bits: float, files: Sequence[Path], chosen: list[int], challenge: str) -> dict[str, Any]:
    size, count = claim.text.bytes, sum(file.stat().st_size for file in files)
    return {
        "artifact": str(claim.artifact),
        "method": claim.method.name,
        "window": claim.method.window,
        "stride": claim.method.stride,
        "bytes": size,
        "targets": claim.text.targets,
        "claimed_bits": bits,
        "claimed_bpb": bits / size,
        "coded_bytes": count,
        "coded_bpb": 8 * count / size,
        "overhead_percent": 100 * (8 * count / bits - 1),
        "groups": len(files),
        "sampled": chosen,
        "challenge": challenge,
        "restored": True,
        "false_groups_at_most": false_share(len(chosen), len(files)),
        "confidence": CONFIDENCE,
    }
