"""What the commands on an artifact do: `score_artifact`, `compress`, `decompress`, `generate`, `ledger`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from bitgolf.artifact.container import read_artifact
from bitgolf.artifact.ledger import ledger
from bitgolf.artifact.model import LoadedArtifact, load_model
from bitgolf.data.manifest import load_manifest
from bitgolf.errors import UsageError
from bitgolf.model.decoding.generate import generate
from bitgolf.pipeline import coding
from bitgolf.pipeline.coding import CodingJob, decompress_in_worker, text_codec
from bitgolf.pipeline.scoring import ScoringJob, run_scoring_job
from bitgolf.pipeline.state import RunFiles
from bitgolf.report.log import RunLog
from bitgolf.score.callbacks import LogLine
from bitgolf.score.coding.compress import default_method
from bitgolf.score.coding.proof import ProofTask, leading_documents, prove
from bitgolf.score.document_order import parse_order
from bitgolf.score.method_selection import select_methods
from bitgolf.score.result import CompressResult, DecompressResult, MethodResult, ProofResult
from bitgolf.score.text import TokenizedText, load_validation, tokenize_documents
from bitgolf.text.documents import read_documents


class ScoreResult(MethodResult, frozen=True, kw_only=True):
    """The keys of `score_artifact --json`: those of the last method, and all methods."""

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


def find_artifact(path: Path) -> Path:
    """The artifact itself, or the one in a run's folder."""
    found = RunFiles(path).artifact if path.is_dir() else path
    if not found.exists():
        raise UsageError("there is no artifact here", where=str(path), hint="`bitgolf run quickstart` makes one")
    return found


def score_artifact(
    artifact: Path,
    text: Sequence[Path],
    shards: Path | None,
    *,
    methods: Sequence[str] = (),
    edits: Sequence[str] = (),
    order: str | None = None,
    seed: int | None = None,
    batch: int | None = None,
    processes: int = 1,
    device: str = "auto",
) -> ScoreResult:
    """The referee's score on raw text or on shards."""
    chosen_order, path, loaded, source = parse_order(order, seed), *_opened(artifact, text, shards)
    job = ScoringJob(
        artifact=path.resolve(),
        text=source,
        methods=tuple(select_methods(loaded.recipe.score, methods, edits)),
        order=chosen_order,
        batch_tokens=batch,
        device=device,
    )
    rows = run_scoring_job(job, loaded, processes=processes)
    return ScoreResult(**msgspec.structs.asdict(rows[-1]), methods=rows)


def _opened(artifact: Path, text: Sequence[Path], shards: Path | None) -> tuple[Path, LoadedArtifact, TokenizedText]:
    """An artifact and the text that is to be scored with it, from the one source that was given."""
    if bool(text) == bool(shards):
        raise UsageError("give exactly one of --text and --shards", hint="--text PATH or --shards DIR")
    path = find_artifact(artifact)
    loaded = load_model(path)
    if shards:
        return path, loaded, _from_shards(shards, loaded)
    return path, loaded, tokenize_documents((d.data for d in read_documents(text)), loaded.tokenizer)


def _from_shards(folder: Path, loaded: LoadedArtifact) -> TokenizedText:
    manifest = load_manifest(folder)
    if manifest.tokenizer != loaded.tokenizer.digest:
        raise UsageError(
            "these shards were made with another tokenizer than the artifact's",
            where=str(folder),
            hint="score raw text with --text",
        )
    return load_validation(folder)


def compress_file(artifact: Path, source: Path, target: Path) -> CompressResult:
    return coding.compress_file(CodingJob(find_artifact(artifact), source, target))


def decompress_file(artifact: Path, source: Path, target: Path) -> DecompressResult:
    return coding.decompress_file(CodingJob(find_artifact(artifact), source, target))


def prove_score(
    artifact: Path,
    folder: Path,
    text: Sequence[Path],
    shards: Path | None,
    names: Sequence[str] = (),
    edits: Sequence[str] = (),
    max_bytes: int = 0,
    sample_groups: int = 8,
    challenge: str = "",
) -> ProofResult:
    """Prove the score of a text, or of its first `max_bytes` bytes, by coding all of it and restoring a sample."""
    path, loaded, source = _opened(artifact, text, shards)
    codec, own = text_codec(loaded), loaded.recipe.score
    chosen = select_methods(own, names, edits)
    if names and len(chosen) > 1:
        raise UsageError(f"a proof covers one method, got {len(chosen)}", where="--with", hint="name one method")
    source = leading_documents(source, loaded.tokenizer, max_bytes) if max_bytes else source
    claim = ProofTask(path, codec, source, chosen[0] if names else default_method(chosen))
    return prove(claim, folder, sample=sample_groups, challenge=challenge, log=RunLog(), restore=restore)


def restore(artifact: Path, source: Path, target: Path, log: LogLine) -> list[int]:
    """Decompress a file in a process of its own; returns the lengths of its documents."""
    return decompress_in_worker(CodingJob(artifact, source, target), log).documents


def generate_text(
    artifact: Path, prompt: str, *, tokens: int, temperature: float, top_k: int, seed: int
) -> GeneratedText:
    """Sample text from the model."""
    loaded = load_model(find_artifact(artifact))
    drawn = generate(
        loaded.model,
        loaded.tokenizer,
        prompt.encode(),
        tokens=tokens,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        window=loaded.recipe.score[-1]().window,
    )
    text = loaded.tokenizer.decode_lenient(drawn)
    return GeneratedText(text=text.decode(errors="replace"), seed=seed, temperature=temperature)


def read_ledger(artifact: Path) -> LedgerResult:
    entries = [LedgerRow(*entry) for entry in ledger(read_artifact(find_artifact(artifact)))]
    return LedgerResult(entries, sum(entry.bytes for entry in entries))
