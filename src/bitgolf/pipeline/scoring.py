"""The stage `score`, and scoring jobs: in this process, in a process of their own, or in N that share the work.

Each of N processes has the whole text, and all of them compute the same totals.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from bitgolf.artifact.model import LoadedArtifact, load_model
from bitgolf.config.spec import Spec
from bitgolf.data.manifest import check_digests, data_digest
from bitgolf.errors import CorruptFileError
from bitgolf.files import file_digest
from bitgolf.model.parameters import load_weights, read_weights
from bitgolf.pipeline.coding import CodingJob, compress_in_worker, decompress_in_worker
from bitgolf.pipeline.compression import load_meta_model
from bitgolf.pipeline.host_files import file_inputs
from bitgolf.pipeline.state import Run
from bitgolf.report.log import RunLog
from bitgolf.runtime import process_group
from bitgolf.runtime.device import Device, select_device
from bitgolf.runtime.launch import run_worker
from bitgolf.score.coding.roundtrip import decoded_documents
from bitgolf.score.document_order import DocumentOrder
from bitgolf.score.evaluate import ScoringContext, evaluate_method
from bitgolf.score.execution.time_estimate import TIME_LIMIT
from bitgolf.score.methods import ScoringMethod
from bitgolf.score.result import CompressResult, DecompressResult, MethodResult, RoundTripResult, ScoredText
from bitgolf.score.text import TokenizedText, load_validation, sample_documents
from bitgolf.tokens.loading import load_tokenizer


class ScoringJob(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact, a text, and the methods to score it with.

    order: order of the documents; None for each method's own. batch_tokens: tokens per batch; None to choose by free
    memory. limit: seconds per method. exact: compute in float64, for tests. device: kind of device, as in
    `select_device`.
    """

    artifact: Path
    text: TokenizedText
    methods: tuple[Spec[ScoringMethod], ...]
    order: Spec[DocumentOrder] | None = None
    batch_tokens: int | None = None
    limit: float = TIME_LIMIT
    exact: bool = False
    device: str = "auto"


class ScoreOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of the stage `score`.

    bpb: bits per byte of the weights `trained`, `averaged` and `packed`, and of the methods; None where there is none.
    methods: scores of the artifact, read from disk in a process of its own. roundtrip: None if the recipe has no proof.
    scored: the text of the scores. Without scoring, it is None and there are no methods.
    """

    bpb: dict[str, float | None]
    methods: list[MethodResult]
    roundtrip: RoundTripResult | None
    scored: ScoredText | None = None


def run_scoring_job(job: ScoringJob, loaded: LoadedArtifact, *, processes: int = 1) -> list[MethodResult]:
    """Score with each method, in order.

    loaded: the job's artifact. It is used with one process; several processes read the artifact themselves.
    """
    if processes == 1:
        return score_on_rank(job, loaded, RunLog())
    return score_in_workers(job, processes=processes)


def score_in_workers(job: ScoringJob, *, processes: int) -> list[MethodResult]:
    """Score with each method in new processes, which read the artifact from disk."""
    return run_worker(
        score_worker,
        job,
        task="scoring",
        where=job.artifact,
        processes=processes,
        inputs=lambda: file_inputs(job.artifact.parent, job.artifact),
    )


def score_worker(job: ScoringJob) -> list[MethodResult]:
    """Run `score_on_rank` as one of several processes; only rank 0 prints."""
    return score_on_rank(job, load_model(job.artifact), RunLog(quiet=process_group.rank_from_environment() > 0))


def score_on_rank(job: ScoringJob, loaded: LoadedArtifact, log: RunLog) -> list[MethodResult]:
    """Score this rank's share of the text with one method after the other; all ranks return the same results."""
    with process_group.joined(job.device) as distributed:
        device, model = select_device(distributed.local_rank, job.device), loaded.model
        if job.exact:
            model, device = model.double(), Device(device.torch_device, torch.float32, "in float64")
        context = ScoringContext(
            model,
            loaded.tokenizer.vocab,
            job.text,
            device,
            distributed=distributed,
            order=job.order,
            batch_tokens=job.batch_tokens,
            time_limit=job.limit,
            show=log.progress,
            tokenizer=loaded.tokenizer,
        )
        return [evaluate_method(context, method) for method in job.methods]


# ---- the stage -----------------------------------------------------------------------------------------------------


def score_inputs(run: Run) -> list[Any]:
    part_of_text = [] if run.score_tokens == "all" else [run.score_tokens]
    return [
        file_digest(run.files.artifact),
        data_digest(run.data_folder),
        run.settings("score", "proof"),
        *part_of_text,
    ]


def _check_validation_shards(run: Run) -> None:
    """Raise `CorruptFileError` if the validation shards are not those that the manifest states."""
    try:
        check_digests(run.data_folder, "val")
    except CorruptFileError as error:
        if not run.shards:
            manifest = run.data_folder / "manifest.json"
            error.hint = f"delete {manifest} and run again: the data is then prepared again, and the training is kept"
        raise


def score(run: Run) -> ScoreOutcome:
    """Score the weights in memory, then the artifact, read from disk in new processes; then run the round trip.

    `packed` is the score of the first method, `adapted` that of the last method that adapts.
    """
    bpb: dict[str, float | None] = {"trained": None, "averaged": None, "packed": None, "sliding": None, "adapted": None}
    if run.score_tokens == 0:
        run.log.info("score: left out; --score-tokens all scores the run")
        return ScoreOutcome(bpb=bpb, methods=[], roundtrip=None)
    _check_validation_shards(run)
    recipe, (text, scored) = run.recipe(), _text_to_score(run)
    bpb |= _score_weights(run, text)
    job = ScoringJob(artifact=run.files.artifact, text=text, methods=recipe.score, device=run.device_type)
    results = score_in_workers(job, processes=run.devices)
    bpb["packed"] = results[0].bpb
    for result in results:
        kind = "adapted" if result.adapts else result.method
        if result is not results[0] or kind in bpb:
            bpb[kind] = result.bpb
    _report_methods(run.log, results)
    return ScoreOutcome(bpb=bpb, methods=results, roundtrip=_round_trip(run, text), scored=scored)


def _text_to_score(run: Run) -> tuple[TokenizedText, ScoredText]:
    """The held-out text, or a sample of its documents if the run has one."""
    whole = text = load_validation(run.data_folder)
    if run.score_tokens != "all":
        tokenizer = load_tokenizer(run.data_folder / "tokenizer.model")
        text = sample_documents(whole, run.score_tokens, tokenizer)
    documents, of = len(text.documents()), len(whole.documents())
    scored = ScoredText(documents=documents, tokens=text.num_targets, bytes=text.bytes, share=text.bytes / whole.bytes)
    if documents < of:
        run.log.info(
            f"a sample is scored: {documents:,} of {of:,} documents, {text.num_targets:,} of {whole.num_targets:,}"
            f" tokens, {scored.share:.2%} of the bytes"
        )
    return text, scored


def _score_weights(run: Run, text: TokenizedText) -> dict[str, float]:
    """bpb of the trained and of the averaged weights: the recipe's first method, without adaptation."""
    first, device, found = run.recipe().score[0], select_device(device_type=run.device_type), dict[str, float]()
    first = first().without_adaptation() or first
    files = {"trained": (run.files.trained, "train"), "averaged": (run.files.averaged, "average")}
    for name, (file, stage) in files.items():
        model = load_meta_model(run)
        load_weights(model, read_weights(file, stage=stage))
        context = ScoringContext(model, model.embed.weight.shape[0], text, device, show=run.log.progress)
        found[name] = evaluate_method(context, first).bpb
        run.log.info(f"{name}: {found[name]:.4f} bpb ({first().name}, in memory)")
    return found


def _report_methods(log: RunLog, results: Sequence[MethodResult]) -> None:
    for result in results:
        log.event("score", **{k: v for k, v in msgspec.structs.asdict(result).items() if k != "breakdown"})
        gain = ""
        if result.gain is not None and result.bpb_without_adaptation is not None:
            gain = f" ({result.bpb_without_adaptation:.4f} without adaptation, gain {result.gain:.4f})"
        log.info(f"packed, {result.method}: {result.bpb:.4f} bpb{gain}, read back from disk")
        for warning in result.warnings:
            log.event("warning", message=f"{result.method}: {warning}")


def _round_trip(run: Run, text: TokenizedText) -> RoundTripResult | None:
    """Compress and decompress a held-out document, in separate processes and in native arithmetic.

    None if the recipe has no proof, or tokens do not determine the text.
    """
    proof, artifact, tokenizer = (
        run.recipe().proof,
        run.files.artifact,
        load_tokenizer(run.data_folder / "tokenizer.model"),
    )
    if proof is None:
        return None
    documents = list(decoded_documents(text, tokenizer))
    if not tokenizer.byte_fallback or not documents:
        reason = "no held-out document decodes" if tokenizer.byte_fallback else "the tokenizer has no byte fallback"
        run.log.info(f"no compression round trip: {reason}, so the text cannot be restored from tokens")
        return None

    def compress(source: Path, target: Path) -> CompressResult:
        return compress_in_worker(CodingJob(artifact, source, target, portable=False))

    def decompress(source: Path, target: Path) -> DecompressResult:
        return decompress_in_worker(CodingJob(artifact, source, target))

    return proof().run(run.folder, documents, compress, decompress)
