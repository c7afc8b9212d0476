"""What the verbs do with an artifact or a folder of data: files in, one JSON-like document out."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bitgolf.artifact.container import read_artifact
from bitgolf.artifact.ledger import ledger
from bitgolf.artifact.model import Loaded, load
from bitgolf.data.prepare import check, load_manifest, prepare
from bitgolf.errors import BitgolfError, UsageError, at
from bitgolf.files import write_bytes
from bitgolf.model.decoding.generate import generate
from bitgolf.pipeline.scoring import Job, perform
from bitgolf.report.log import Journal
from bitgolf.score.coding import compress
from bitgolf.score.coding.proof import Claim, first, prove
from bitgolf.score.document_order import order_named
from bitgolf.score.method_selection import choose_methods
from bitgolf.score.text import Text, of_documents, validation
from bitgolf.text.documents import Document, read_documents, split
from bitgolf.tokens.audit import audit
from bitgolf.tokens.loading import load_tokenizer, open_tokenizer
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.trainers import Bytes, CaseOps, SentencePieceBPE


def artifact_path(path: Path) -> Path:
    """The artifact itself, or the one in a run's folder."""
    found = path / "artifact.bg" if path.is_dir() else path
    if not found.exists():
        raise UsageError("there is no artifact here", place=str(path), mend="`bitgolf run quickstart` makes one")
    return found


def score(
    artifact: Path,
    text: Sequence[Path],
    shards: Path | None,
    *,
    names: Sequence[str] = (),
    edits: Sequence[str] = (),
    order: str | None = None,
    seed: int | None = None,
    batch: int | None = None,
    processes: int = 1,
    device: str = "auto",
) -> dict[str, Any]:
    """The referee's score on raw text or on shards; the last method's keys stand at the top, all under `methods`."""
    if bool(text) == bool(shards):
        raise UsageError("one source of text is needed", mend="--text PATH or --shards DIR")
    chosen_order, path = order_named(order, seed), artifact_path(artifact)
    loaded = load(path)
    methods = choose_methods(loaded.recipe["score"], names, edits)
    source = _from_shards(shards, loaded) if shards else _from_text(text, loaded)
    job = Job(path, source, methods, chosen_order, batch, device=device)
    rows = msgspec.to_builtins(perform(job, loaded, processes=processes))
    return {**rows[-1], "methods": rows}


def _from_shards(folder: Path, loaded: Loaded) -> Text:
    manifest = load_manifest(folder)
    if manifest.tokenizer != loaded.tokenizer.digest:
        raise UsageError(
            "these shards were made with another tokenizer than the artifact's",
            place=str(folder),
            mend="score raw text with --text",
        )
    return validation(folder)


def _from_text(text: Sequence[Path], loaded: Loaded) -> Text:
    return of_documents((d.data for d in read_documents(text)), loaded.tokenizer)


def _codec(loaded: Loaded) -> compress.Codec:
    return compress.Codec(loaded.model, loaded.tokenizer, loaded.digest, loaded.recipe["score"])


def compress_file(artifact: Path, source: Path, target: Path) -> dict[str, Any]:
    """With the contexts of the last of the recipe's methods that can be coded."""
    started, journal, data = time.perf_counter(), Journal(), _read(source)
    codec, per_byte = _codec(load(artifact_path(artifact))), max(len(data), 1)

    def progress(done: int, count: int, bits: float) -> None:
        bpb = bits / done * count / per_byte
        journal.progress(f"compress: {done:,} / {count:,} tokens, {bpb:.4f} bits per byte so far")

    method = compress.usual_method(codec.methods)
    result = compress.compress(codec, compress.parts(codec, data), method=method, progress=progress)
    write_bytes(target, result.data)
    return {
        "bytes_in": len(data),
        "bytes_out": len(result.data),
        "bpb_coded": 8 * len(result.data) / per_byte,
        "bpb_predicted": result.bits / per_byte,
        "method": method().name,
        "seconds": round(time.perf_counter() - started, 3),
    }


def decompress_file(artifact: Path, source: Path, target: Path) -> dict[str, Any]:
    """All documents of a file, joined; `documents` are their lengths."""
    started, journal, data = time.perf_counter(), Journal(), _read(source)
    codec = _codec(load(artifact_path(artifact)))

    def progress(done: int, count: int, bits: float) -> None:
        journal.progress(f"decompress: {done:,} / {count:,} tokens")

    with at(str(source)):
        texts = compress.decompress(codec, data, progress)
    write_bytes(target, b"".join(texts))
    lengths = [len(text) for text in texts]
    seconds = round(time.perf_counter() - started, 3)
    return {"bytes_in": len(data), "bytes_out": sum(lengths), "documents": lengths, "seconds": seconds}


def prove_score(
    artifact: Path,
    folder: Path,
    text: Sequence[Path],
    shards: Path | None,
    names: Sequence[str] = (),
    edits: Sequence[str] = (),
    size: int = 0,
    sample: int = 8,
    challenge: str = "",
) -> dict[str, Any]:
    """Prove the score of a text, or of its first `size` bytes, by coding all of it and restoring a sample."""
    if bool(text) == bool(shards):
        raise UsageError("one source of text is needed", mend="--text PATH or --shards DIR")
    path, journal = artifact_path(artifact), Journal()
    loaded = load(path)
    codec, own = _codec(loaded), loaded.recipe["score"]
    chosen = choose_methods(own, names, edits)
    if names and len(chosen) > 1:
        raise UsageError(f"a proof is of one method, and {len(chosen)} are named", place="--with")
    source = _from_shards(shards, loaded) if shards else _from_text(text, loaded)
    source = first(source, loaded.tokenizer, size) if size else source
    claim = Claim(path, codec, source, chosen[0] if names else compress.usual_method(chosen))
    result = prove(claim, folder, sample=sample, challenge=challenge, journal=journal, restore=_restore)
    return msgspec.to_builtins(result)


def _restore(artifact: Path, source: Path, target: Path, log: Callable[[str], None]) -> list[int]:
    """`bitgolf decompress` in a process of its own: the documents' lengths. Its last lines are its error, if it has one."""
    command = [sys.executable, "-m", "bitgolf", "decompress", *map(str, (artifact, source, target)), "--json"]
    lines = list[str]()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        for line in process.stderr:
            lines.append(line.rstrip())
            log(lines[-1])
        answer = process.stdout.read()
    if process.returncode:
        error = [line for line in lines if not line.startswith("[")]
        raise BitgolfError("it cannot be restored: " + ("\n".join(error[-4:]) or f"exit status {process.returncode}"))
    return json.loads(answer)["documents"]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read it: {error.strerror}", place=str(path)) from None


def sample(artifact: Path, prompt: str, *, tokens: int, temperature: float, top: int, seed: int) -> dict[str, Any]:
    loaded = load(artifact_path(artifact))
    window = loaded.recipe["score"][-1]().window
    drawn = generate(
        loaded.model,
        loaded.tokenizer,
        prompt.encode(),
        tokens=tokens,
        temperature=temperature,
        top=top,
        seed=seed,
        window=window,
    )
    text = loaded.tokenizer.readable(drawn)
    return {"text": text.decode(errors="replace"), "seed": seed, "temperature": temperature}


def ledger_of(artifact: Path) -> dict[str, Any]:
    entries = [e._asdict() for e in ledger(read_artifact(artifact_path(artifact)))]
    return {"entries": entries, "total": sum(e["bytes"] for e in entries)}


def make_data(
    folder: Path, text: Sequence[Path], vocab: int, tokenizer: Path | None, held_out: float, kind: str = "sentencepiece"
) -> dict[str, Any]:
    training, validation = split(read_documents(text), held_out)
    made = _tokenizer(kind, vocab, tokenizer, training)
    findings = [f._asdict() for f in audit(made, (d.data for d in validation[:20]))]
    return {**prepare(training, validation, made, folder).to_json(), "findings": findings}


def _tokenizer(kind: str, vocab: int, given: Path | None, documents: Sequence[Document]) -> Tokenizer:
    """The one of a file, or trained on these documents."""
    trainers = {"sentencepiece": SentencePieceBPE(vocab=vocab), "caseops": CaseOps(vocab=vocab), "bytes": Bytes()}
    if kind not in trainers:
        raise UsageError(f"there is no kind of tokenizer {kind!r}", mend=f"--kind {' or '.join(trainers)}")
    if given and kind == "bytes":
        raise UsageError("a byte tokenizer comes from no file", place=str(given), mend="--kind bytes or --tokenizer")
    if given:
        return load_tokenizer(given, case_operators=kind == "caseops")
    return open_tokenizer(trainers[kind].train(d.data for d in documents))


def check_data(folder: Path) -> dict[str, Any]:
    findings = [f._asdict() for f in check(folder)]
    return {"folder": str(folder), "findings": findings, "passes": not any(f["severity"] == "error" for f in findings)}
