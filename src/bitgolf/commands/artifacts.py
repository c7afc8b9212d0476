"""The commands on an artifact: `score`, `compress`, `decompress`, `generate`, `ledger`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bitgolf.artifact.container import read_artifact
from bitgolf.artifact.ledger import ledger
from bitgolf.artifact.model import LoadedArtifact, artifact_requirements, load_model
from bitgolf.data.shard_folder import check_tokenizer_option, inspect_split, log_findings, open_shard_folder
from bitgolf.errors import UsageError
from bitgolf.files import require_file
from bitgolf.model.decoding.generate import generate
from bitgolf.pipeline import coding
from bitgolf.pipeline.coding import STREAM, CodingJob, decompress_in_worker, text_codec
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.pipeline.scoring import ScoringJob, run_scoring_job
from bitgolf.report.display import current_display
from bitgolf.report.log import RunLog
from bitgolf.report.progress import Progress
from bitgolf.score.coding.open_predictor import default_method, default_rows
from bitgolf.score.coding.proof import prove
from bitgolf.score.coding.proof_task import ProofTask, leading_documents
from bitgolf.score.document_order import parse_order
from bitgolf.score.method_selection import select_methods
from bitgolf.score.result import CompressResult, DecompressResult, MethodResult, ProofResult
from bitgolf.score.text import TokenizedText, text_of_shards, tokenize_documents
from bitgolf.text.documents import read_documents
from bitgolf.text.read_report import DEFAULT_OPTIONS, ReadOptions, ReadReport
from bitgolf.tokens.pieces import decode_pieces


class ScoreResult(MethodResult, frozen=True, kw_only=True):
    """The keys of `score --json`: the result of the last method, and `methods` with the results of all.

    sidecar_bytes: total of the byte sidecar beside published shards, which scores do not use; None without one.
    """

    methods: list[MethodResult]
    sidecar_bytes: int | None


class SourceText(NamedTuple):
    """A text to score or to prove: `text`, or the validation shards of the folder `shards`.

    reading: how records of `text` are read. tokenizer: of the shards; None for the one in their folder.
    """

    text: Sequence[Path] = ()
    shards: Path | None = None
    reading: ReadOptions = DEFAULT_OPTIONS
    tokenizer: Path | None = None


class OpenedText(NamedTuple):
    """A tokenized text and the total of its byte sidecar, None without one."""

    text: TokenizedText
    sidecar_bytes: int | None = None


class GeneratedText(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `generate --json`. text: the prompt and the sampled continuation."""

    text: str
    seed: int
    temperature: float


class LedgerRow(msgspec.Struct, frozen=True):
    """Size of a section of an artifact. bits_per_element: None for sections without elements (frame and header)."""

    name: str
    bytes: int
    elements: int
    bits_per_element: float | None
    coder: str


class LedgerResult(msgspec.Struct, frozen=True):
    """The keys of `ledger --json`.

    total: size of the file in bytes. requires: code files and distributions that the artifact needs, with digest or version.
    """

    entries: list[LedgerRow]
    total: int
    requires: list[str]


def find_artifact(path: Path) -> Path:
    """Path of an artifact, given itself or as a run's folder. Raises `UsageError` if there is none."""
    found = RunFiles(path).artifact if path.is_dir() else path
    if not found.exists():
        raise UsageError("there is no artifact", where=str(path), hint="`bitgolf run quickstart` creates one")
    require_file(found)
    return found


def score_artifact(
    artifact: Path,
    source: SourceText,
    *,
    methods: Sequence[str] = (),
    edits: Sequence[str] = (),
    order: str | None = None,
    seed: int | None = None,
    batch: int | None = None,
    processes: int = 1,
    device: str = "auto",
) -> ScoreResult:
    """`bitgolf score`: score an artifact on raw text or on shards.

    methods: names; empty for the recipe's. edits: `SETTING=VALUE` for the methods that have the setting.
    order: document order; None for each method's own. seed: of the order `shuffled`. batch: tokens per batch; None to
    choose by free memory. Raises `UsageError` if `source` does not name exactly one of text and shards.
    """
    chosen_order, path, loaded, opened = parse_order(order, seed), *_opened(artifact, source)
    job = ScoringJob(
        artifact=path.resolve(),
        text=opened.text,
        methods=tuple(select_methods(loaded.recipe.score, methods, edits)),
        order=chosen_order,
        batch_tokens=batch,
        device=device,
    )
    rows = run_scoring_job(job, loaded, processes=processes)
    return ScoreResult(**msgspec.structs.asdict(rows[-1]), methods=rows, sidecar_bytes=opened.sidecar_bytes)


def _opened(artifact: Path, source: SourceText) -> tuple[Path, LoadedArtifact, OpenedText]:
    """(path of the artifact, the loaded artifact, the text)."""
    check_source(source)
    path = find_artifact(artifact)
    loaded = load_model(path)
    return path, loaded, open_text(source, loaded)


def check_source(source: SourceText) -> None:
    """Raise `UsageError` unless exactly one of text and shards is given, and its options have an effect."""
    text, shards = source.text, source.shards
    if bool(text) == bool(shards):
        given = "both" if text else "neither"
        raise UsageError(f"give exactly one of --text and --shards, got {given}", hint="--text PATH or --shards DIR")
    if shards and source.reading != DEFAULT_OPTIONS:
        message = "options of reading text have no effect with --shards"
        raise UsageError(message, where=" ".join(source.reading.words()), hint="leave them out")
    check_tokenizer_option(source.tokenizer, shards)


def open_text(source: SourceText, loaded: LoadedArtifact) -> OpenedText:
    """Read a text and tokenize it, or read validation shards. Reports what was read, skipped and guessed."""
    if source.shards:
        return _from_shards(source.shards, source.tokenizer, loaded)
    report, log = ReadReport(), RunLog()
    documents = read_documents(source.text, source.reading, report)
    tokenized = tokenize_documents((document.data for document in documents), loaded.tokenizer)
    for line in report.lines():
        log.info(line)
    return OpenedText(tokenized)


def _from_shards(folder: Path, tokenizer: Path | None, loaded: LoadedArtifact) -> OpenedText:
    """The validation shards of a folder, which are read once and checked.

    Raises `UsageError` if their tokenizer is not that of the artifact.
    """
    source, log = open_shard_folder(folder, tokenizer), RunLog()
    if source.tokenizer.digest != loaded.tokenizer.digest:
        raise UsageError(
            f"the shards were made with the tokenizer {source.tokenizer.digest:.12}, the artifact has"
            f" {loaded.tokenizer.digest:.12}",
            where=str(folder),
            hint="score raw text with --text, or make shards with the tokenizer of the artifact",
        )
    split = inspect_split(source, "val", log)
    log_findings(log, split.findings)
    text = text_of_shards(split.text, split.counts.encoded_bytes, source.tokenizer.bos)
    return OpenedText(text, split.counts.sidecar_bytes)


def compress_file(
    artifact: Path,
    source: Path,
    target: Path,
    *,
    method: str = "",
    edits: Sequence[str] = (),
    portable: bool | None = None,
    force: bool = False,
) -> CompressResult:
    """`bitgolf compress`: compress a file with the model of an artifact. `-` stands for a standard stream.

    method, edits: as in `CodingJob`. portable: see `choose_arithmetic`. force: replace an existing file.
    """
    if source != STREAM:
        require_file(source)
    job = CodingJob(find_artifact(artifact), source, target, portable, force, method, tuple(edits))
    return coding.compress_file(job)


def decompress_file(artifact: Path, source: Path, target: Path, *, force: bool = False) -> DecompressResult:
    """`bitgolf decompress`: restore a file that `compress_file` wrote."""
    if source != STREAM:
        require_file(source)
    return coding.decompress_file(CodingJob(find_artifact(artifact), source, target, force=force))


def prove_score(
    artifact: Path,
    folder: Path,
    source: SourceText,
    names: Sequence[str] = (),
    edits: Sequence[str] = (),
    max_bytes: int = 0,
    sample_groups: int = 8,
    challenge: str = "",
    portable: bool | None = None,
) -> ProofResult:
    """`bitgolf compress --proof`: prove a score by coding all documents and restoring a sample of them.

    max_bytes: limit of the text; 0 means all. sample_groups: groups of documents to restore; 0 means all. challenge:
    string from the verifier, from which the sample is derived. portable: see `choose_arithmetic`.
    """
    path, loaded, opened = _opened(artifact, source)
    codec, own, text = text_codec(loaded), loaded.recipe.score, opened.text
    chosen = select_methods(own, names, edits)
    if names and len(chosen) > 1:
        raise UsageError(f"a proof covers one method, got {len(chosen)}", where="--with", hint="give one --with")
    text = leading_documents(text, loaded.tokenizer, max_bytes) if max_bytes else text
    method = chosen[0] if names else default_method(chosen)
    rows = default_rows(codec.model, method().window)
    claim = ProofTask(path, codec, text, method, rows=rows, portable=portable)
    if portable is None:
        coding.report_arithmetic(claim.arithmetic, claim.proved_method, RunLog())
    return prove(claim, folder, sample=sample_groups, challenge=challenge, log=RunLog(), restore=restore)


def restore(artifact: Path, source: Path, target: Path) -> list[int]:
    """Decompress a file in a process of its own; returns the lengths of its documents in bytes."""
    return decompress_in_worker(CodingJob(artifact, source, target)).documents


def generate_text(
    artifact: Path, prompt: str, *, tokens: int, temperature: float, top_k: int, seed: int
) -> GeneratedText:
    """`bitgolf generate --json`: the pieces of `stream_text` as one value."""
    pieces = stream_text(artifact, prompt, tokens=tokens, temperature=temperature, top_k=top_k, seed=seed)
    return GeneratedText(text="".join(pieces), seed=seed, temperature=temperature)


def stream_text(
    artifact: Path, prompt: str, *, tokens: int, temperature: float, top_k: int, seed: int
) -> Iterator[str]:
    """`bitgolf generate`: yield a prompt and `tokens` sampled tokens after it in pieces, as they are sampled.

    top_k: choose among the k likeliest; 0 means all.
    """
    current_display().progress(Progress("read the artifact"))
    loaded = load_model(find_artifact(artifact))
    yield from sample_text(loaded, os.fsencode(prompt), tokens=tokens, temperature=temperature, top_k=top_k, seed=seed)


def sample_text(
    loaded: LoadedArtifact, prompt: bytes, *, tokens: int, temperature: float, top_k: int, seed: int
) -> Iterator[str]:
    """Yield the prompt and its continuation in pieces of about a word, as they are sampled. See `stream_text`."""
    drawn = generate(
        loaded.model,
        loaded.tokenizer,
        prompt,
        tokens=tokens,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        window=loaded.recipe.score[-1]().window,
    )
    return decode_pieces(loaded.tokenizer, drawn)


def read_ledger(artifact: Path) -> LedgerResult:
    """`bitgolf ledger`: bytes of each section of an artifact."""
    content = read_artifact(find_artifact(artifact))
    entries = [LedgerRow(*entry) for entry in ledger(content)]
    return LedgerResult(
        entries, sum(entry.bytes for entry in entries), [str(n) for n in artifact_requirements(content)]
    )
