"""What the verbs do with an artifact or a folder of data: files in, one JSON-like document out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitgolf.data.prepare import check, load_manifest, prepare
from bitgolf.errors import UsageError
from bitgolf.files import write_bytes
from bitgolf.journal import Journal
from bitgolf.pack.artifact import read_artifact
from bitgolf.pack.ledger import ledger
from bitgolf.score import coder
from bitgolf.score.artifact import Loaded, load
from bitgolf.score.player import StaticPlayer
from bitgolf.score.referee import score as referee_score
from bitgolf.score.sample import generate
from bitgolf.score.text import Text, of_documents, validation
from bitgolf.score.windows import Contiguous, Method, Sliding
from bitgolf.text.documents import read_documents, split
from bitgolf.tokens.audit import audit
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.train import SentencePieceBPE
from bitgolf.train.device import choose


def artifact_path(path: Path) -> Path:
    """The artifact itself, or the one in a run's folder."""
    found = path / "artifact.bg" if path.is_dir() else path
    if not found.exists():
        raise UsageError("there is no artifact here", place=str(path), mend="`bitgolf run quickstart` makes one")
    return found


def score(artifact: Path, text: Sequence[Path], shards: Path | None, names: Sequence[str]) -> dict[str, Any]:
    """The referee's score on raw text or on shards; the last method's keys stand at the top, all under `methods`."""
    if bool(text) == bool(shards):
        raise UsageError("one source of text is needed", mend="--text PATH or --shards DIR")
    journal = Journal()
    loaded = load(artifact_path(artifact))
    source = _from_shards(shards, loaded) if shards else _from_text(text, loaded)
    player, results = StaticPlayer(loaded.model, loaded.tokenizer.vocab, choose()), []
    for method in _methods(loaded, names):

        def progress(done: int, targets: int, bits: float, name: str = method.name) -> None:
            journal.progress(
                f"{name}: {done:,} / {targets:,} targets, {bits / source.bytes * targets / done:.4f} bits per byte so far"
            )

        result = referee_score(player, source, method, progress=progress)
        results.append({**result._asdict(), "bpb": result.bpb, "window": method.window, "stride": method.stride})
    return {**results[-1], "methods": results}


def _methods(loaded: Loaded, names: Sequence[str]) -> list[Method]:
    """The recipe's own methods, or the named ones with the recipe's settings where it has them."""
    own = {m.name: m for m in (spec() for spec in loaded.recipe["score"])}
    known = {"contiguous": Contiguous(), "sliding": Sliding()} | own
    if unknown := [n for n in names if n not in known]:
        raise UsageError(f"there is no method {unknown[0]!r}", mend=f"--with {' or '.join(known)}")
    return [known[n] for n in names] if names else list(own.values())


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


def _codec(loaded: Loaded) -> coder.Codec:
    """The contexts of the recipe's last method: what its best score was measured with."""
    return coder.Codec(loaded.model, loaded.tokenizer, loaded.digest, loaded.recipe["score"][-1]())


def compress_file(artifact: Path, source: Path, target: Path) -> dict[str, Any]:
    started, journal, data = time.perf_counter(), Journal(), _read(source)
    codec = _codec(load(artifact_path(artifact)))
    result = coder.compress(codec, data, lambda done, count: journal.progress(f"compress: {done:,} / {count:,} tokens"))
    write_bytes(target, result.data)
    per_byte = max(len(data), 1)
    return {
        "bytes_in": len(data),
        "bytes_out": len(result.data),
        "bpb_coded": 8 * len(result.data) / per_byte,
        "bpb_predicted": result.bits / per_byte,
        "seconds": round(time.perf_counter() - started, 3),
    }


def decompress_file(artifact: Path, source: Path, target: Path) -> dict[str, Any]:
    started, journal, data = time.perf_counter(), Journal(), _read(source)
    codec = _codec(load(artifact_path(artifact)))
    text = coder.decompress(
        codec, data, lambda done, count: journal.progress(f"decompress: {done:,} / {count:,} tokens")
    )
    write_bytes(target, text)
    return {"bytes_in": len(data), "bytes_out": len(text), "seconds": round(time.perf_counter() - started, 3)}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read it: {error.strerror}", place=str(path)) from None


def sample(artifact: Path, prompt: str, *, tokens: int, temperature: float, top: int, seed: int) -> dict[str, Any]:
    loaded = load(artifact_path(artifact))
    window = loaded.recipe["score"][-1]["window"]
    pieces = generate(
        loaded.model,
        loaded.tokenizer,
        prompt.encode(),
        tokens=tokens,
        temperature=temperature,
        top=top,
        seed=seed,
        window=window,
    )
    return {"text": b"".join(pieces).decode(errors="replace"), "seed": seed, "temperature": temperature}


def ledger_of(artifact: Path) -> dict[str, Any]:
    entries = [e._asdict() for e in ledger(read_artifact(artifact_path(artifact)))]
    return {"entries": entries, "total": sum(e["bytes"] for e in entries)}


def make_data(
    folder: Path, text: Sequence[Path], vocab: int, tokenizer: Path | None, held_out: float
) -> dict[str, Any]:
    training, validation = split(read_documents(text), held_out)
    proto = tokenizer.read_bytes() if tokenizer else SentencePieceBPE(vocab=vocab).train(d.data for d in training)
    made = Tokenizer(proto)
    findings = [f._asdict() for f in audit(made, (d.data for d in validation[:20]))]
    return {**prepare(training, validation, made, folder).to_json(), "findings": findings}


def check_data(folder: Path) -> dict[str, Any]:
    findings = [f._asdict() for f in check(folder)]
    return {"folder": str(folder), "findings": findings, "passes": not any(f["severity"] == "error" for f in findings)}
