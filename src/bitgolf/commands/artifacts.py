"""What the commands on an artifact do: `score`, `compress`, `decompress`, `generate`, `ledger`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from bitgolf.artifact.container import read_artifact
from bitgolf.artifact.ledger import ledger
from bitgolf.artifact.model import Loaded, load
from bitgolf.data.prepare import load_manifest
from bitgolf.errors import UsageError
from bitgolf.model.decoding.generate import generate
from bitgolf.pipeline import coding
from bitgolf.pipeline.coding import CodingJob, decompress_in_worker, text_codec
from bitgolf.pipeline.scoring import ScoringJob, run_scoring_job
from bitgolf.pipeline.state import RunFiles
from bitgolf.report.log import Journal
from bitgolf.score.callbacks import LogLine
from bitgolf.score.coding.compress import usual_method
from bitgolf.score.coding.proof import Claim, first, prove
from bitgolf.score.document_order import order_named
from bitgolf.score.method_selection import choose_methods
from bitgolf.score.result import CompressResult, DecompressResult, MethodResult, ProofResult
from bitgolf.score.text import Text, of_documents, validation
from bitgolf.text.documents import read_documents


class ScoreResult(MethodResult, frozen=True, kw_only=True):
    """The keys of `score --json`: those of the last method, and all methods."""

    methods: list[MethodResult]


class GeneratedText(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `generate --json`. text: the prompt and what was drawn."""

    text: str
    seed: int
    temperature: float


class LedgerRow(msgspec.Struct, frozen=True):
    """A section of an artifact. bits_per_element: None where there are no elements (frame and header)."""

    name: str
    bytes: int
    elements: int
    bits_per_element: float | None
    coder: str


class LedgerResult(msgspec.Struct, frozen=True):
    """The keys of `ledger --json`. total: the size of the file."""

    entries: list[LedgerRow]
    total: int


def artifact_path(path: Path) -> Path:
    """The artifact itself, or the one in a run's folder."""
    found = RunFiles(path).artifact if path.is_dir() else path
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
) -> ScoreResult:
    """The referee's score on raw text or on shards."""
    chosen_order, path, loaded, source = order_named(order, seed), *_opened(artifact, text, shards)
    job = ScoringJob(
        artifact=path.resolve(),
        text=source,
        methods=tuple(choose_methods(loaded.recipe["score"], names, edits)),
        order=chosen_order,
        batch_tokens=batch,
        device=device,
    )
    rows = run_scoring_job(job, loaded, processes=processes)
    return ScoreResult(**msgspec.structs.asdict(rows[-1]), methods=rows)


def _opened(artifact: Path, text: Sequence[Path], shards: Path | None) -> tuple[Path, Loaded, Text]:
    """An artifact and the text that is to be scored with it, from the one source that was given."""
    if bool(text) == bool(shards):
        raise UsageError("give exactly one of --text and --shards", mend="--text PATH or --shards DIR")
    path = artifact_path(artifact)
    loaded = load(path)
    if shards:
        return path, loaded, _from_shards(shards, loaded)
    return path, loaded, of_documents((d.data for d in read_documents(text)), loaded.tokenizer)


def _from_shards(folder: Path, loaded: Loaded) -> Text:
    manifest = load_manifest(folder)
    if manifest.tokenizer != loaded.tokenizer.digest:
        raise UsageError(
            "these shards were made with another tokenizer than the artifact's",
            place=str(folder),
            mend="score raw text with --text",
        )
    return validation(folder)


def compress_file(artifact: Path, source: Path, target: Path) -> CompressResult:
    return coding.compress_file(CodingJob(artifact_path(artifact), source, target))


def decompress_file(artifact: Path, source: Path, target: Path) -> DecompressResult:
    return coding.decompress_file(CodingJob(artifact_path(artifact), source, target))


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
) -> ProofResult:
    """Prove the score of a text, or of its first `size` bytes, by coding all of it and restoring a sample."""
    path, loaded, source = _opened(artifact, text, shards)
    codec, own = text_codec(loaded), loaded.recipe["score"]
    chosen = choose_methods(own, names, edits)
    if names and len(chosen) > 1:
        raise UsageError(f"a proof covers one method, got {len(chosen)}", place="--with", mend="name one method")
    source = first(source, loaded.tokenizer, size) if size else source
    claim = Claim(path, codec, source, chosen[0] if names else usual_method(chosen))
    return prove(claim, folder, sample=sample, challenge=challenge, journal=Journal(), restore=restore)


def restore(artifact: Path, source: Path, target: Path, log: LogLine) -> list[int]:
    """Decompress a file in a process of its own; returns the lengths of its documents."""
    return decompress_in_worker(CodingJob(artifact, source, target), log).documents


def sample(artifact: Path, prompt: str, *, tokens: int, temperature: float, top: int, seed: int) -> GeneratedText:
    """Sample text from the model."""
    loaded = load(artifact_path(artifact))
    drawn = generate(
        loaded.model,
        loaded.tokenizer,
        prompt.encode(),
        tokens=tokens,
        temperature=temperature,
        top=top,
        seed=seed,
        window=loaded.recipe["score"][-1]().window,
    )
    text = loaded.tokenizer.readable(drawn)
    return GeneratedText(text=text.decode(errors="replace"), seed=seed, temperature=temperature)


def ledger_of(artifact: Path) -> LedgerResult:
    entries = [LedgerRow(*entry) for entry in ledger(read_artifact(artifact_path(artifact)))]
    return LedgerResult(entries, sum(entry.bytes for entry in entries))
