"""Evaluate a scoring method on a text. For a method that adapts, also score the same windows without adaptation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from bitgolf.config.spec import Spec
from bitgolf.model.lm import LM
from bitgolf.report.progress import Progress, ShowProgress
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bitgolf.score.bit_breakdown import bit_breakdown, zero_charges
from bitgolf.score.callbacks import ProgressCallback
from bitgolf.score.document_order import DocumentOrder
from bitgolf.score.execution.batch_size import BatchSize, choose_batch_size, free_memory, is_out_of_memory
from bitgolf.score.execution.forward import SelectKernels, kernel_selector
from bitgolf.score.execution.time_estimate import TIME_LIMIT, TimeEstimate
from bitgolf.score.methods import ScoringMethod
from bitgolf.score.referee import Score, score
from bitgolf.score.result import BitBreakdown, MethodResult
from bitgolf.score.text import TokenizedText
from bitgolf.tokens.tokenizer import Tokenizer


class MethodScore(NamedTuple):
    """A score and how it was computed.

    compile_seconds: time spent on compilation, included in `score.seconds`. forecast: expected seconds, estimated after
    the first few percent of the targets; None if there were too few. kernels: one line per fused kernel that was used.
    warnings: a smaller batch size than planned, or a time over the limit. breakdown: None without a tokenizer.
    """

    score: Score
    batch_size: BatchSize
    compile_seconds: float
    forecast: float | None
    kernels: Sequence[str]
    warnings: Sequence[str] = ()
    breakdown: BitBreakdown | None = None

    @property
    def seconds(self) -> float:
        """Wall time without compilation. The time limit applies to this."""
        return self.score.seconds - self.compile_seconds


ScoreKey = tuple[str, str | None]
"""Hashes of a method and of the document order, None for the method's own order. Together they determine the score."""
ScoreCache = dict[ScoreKey, MethodScore]


@dataclass(frozen=True)
class ScoringContext:
    """What all methods of a scoring job share: model, text, device and limits.

    vocab: number of tokens that the model predicts. text: in corpus order.
    order: document order; None to use each method's own.
    batch_tokens: tokens per batch; None to choose by free memory, see `choose_batch_size`.
    time_limit: seconds per method, without compilation; exceeding it adds a warning.
    show: receives the progress of each score. tokenizer: of the text, for the breakdown of its bits; None for none.
    scores: cache of the scores of methods that do not adapt, since one of them may be the baseline of several others.
    """

    model: LM
    vocab: int
    text: TokenizedText
    device: Device
    distributed: DistributedContext = SINGLE_PROCESS
    order: Spec[DocumentOrder] | None = None
    batch_tokens: int | None = None
    time_limit: float = TIME_LIMIT
    show: ShowProgress = lambda progress: None
    tokenizer: Tokenizer | None = None
    scores: ScoreCache = field(default_factory=ScoreCache)

    @cached_property
    def kernels(self) -> SelectKernels | None:
        """The fused-kernel selector. It caches its decisions for all methods of the job. None without CUDA."""
        return kernel_selector(self.device)


def evaluate_method(context: ScoringContext, method: Spec[ScoringMethod], *, baseline: bool = True) -> MethodResult:
    """Score the text of a context by one method. The model is restored afterwards.

    baseline: for a method that adapts, also score the same windows without adaptation; `gain` is the difference in bpb.
    """
    made = method()
    order = context.order() if context.order else made.order
    text, order_bits = order.apply(context.text)
    without = made.without_adaptation() if baseline else None
    bpb_without_adaptation: float | None = None
    if without is not None:
        name = f"{made.name} without adaptation"
        bpb_without_adaptation = _score(context, without, name, text, order_bits).score.bpb
    result = _score(context, method, made.name, text, order_bits)
    warnings = [*made.warnings(text), *result.warnings]
    return _method_result(context, made, order, result, bpb_without_adaptation, warnings)


def _method_result(
    context: ScoringContext,
    method: ScoringMethod,
    order: DocumentOrder,
    result: MethodScore,
    bpb_without_adaptation: float | None,
    warnings: list[str],
) -> MethodResult:
    score = result.score
    return MethodResult(
        method=score.method,
        bits=score.bits,
        bytes=score.bytes,
        targets=score.targets,
        tokens_read=score.tokens_read,
        seconds=score.seconds,
        order_bits=score.order_bits,
        bpb=score.bpb,
        adapts=method.adapts,
        bpb_without_adaptation=bpb_without_adaptation,
        gain=None if bpb_without_adaptation is None else bpb_without_adaptation - score.bpb,
        compile_seconds=result.compile_seconds,
        time_limit_seconds=context.time_limit,
        forecast_seconds=result.forecast,
        targets_per_second=score.targets / max(result.seconds, 1e-9),
        targets_per_token_read=score.targets / max(score.tokens_read, 1),
        window=method.window,
        stride=method.stride,
        cross_document=method.cross_document,
        order=order.name,
        processes=context.distributed.world_size,
        device=context.device.description,
        kernels=list(result.kernels),
        batch_tokens=result.batch_size.tokens,
        warnings=warnings,
        breakdown=result.breakdown,
    )


def _score(
    context: ScoringContext, method: Spec[ScoringMethod], name: str, text: TokenizedText, order_bits: int
) -> MethodScore:
    """Score `text`, which is already in its document order. Scores of methods that do not adapt are cached."""
    made = method()
    key = method.hash, context.order.hash if context.order else None
    if key in context.scores:
        return context.scores[key]
    result = score_with_retry(context, text, made, name)
    result = result._replace(score=result.score._replace(order_bits=order_bits))
    if not made.adapts:
        context.scores[key] = result
    return result


def score_with_retry(context: ScoringContext, text: TokenizedText, method: ScoringMethod, name: str) -> MethodScore:
    """Score `text` in its present order. If memory runs out, restart with half the batch size and add a warning.

    Raises `BitgolfError` if memory runs out with a single row, or with several processes.
    """
    batch = choose_batch_size(context.model, method, context.device, context.distributed, context.batch_tokens)
    warnings: list[str] = []
    while (result := _attempt(context, text, method, name, batch)) is None:
        free_memory()
        batch = batch.halved(method.window, context.distributed)
        warnings.append(f"batch size {batch.reason}, so batches of {batch.tokens:,} tokens were used")
    if result.seconds > context.time_limit:
        expected = "" if result.forecast is None else f" (forecast {result.forecast:,.0f} s)"
        warnings.append(f"scoring took {result.seconds:,.1f} s, over the limit of {context.time_limit:,g} s{expected}")
    return result._replace(warnings=warnings)


def _attempt(
    context: ScoringContext, text: TokenizedText, method: ScoringMethod, name: str, batch: BatchSize
) -> MethodScore | None:
    """Score with batches of this size. Returns None if memory runs out."""
    distributed, charges = context.distributed, zero_charges(text, context.tokenizer)
    try:
        made = method.make_player(context.model, context.vocab, context.device, distributed, context.kernels)
        with closing(made) as player:
            forward = player.forward
            if forward:
                forward.set_max_tokens(batch.tokens)
            clock = TimeEstimate(text.num_targets / distributed.world_size, context.time_limit)
            progress = score_progress(name, context, text, clock)
            words = {"batch_tokens": batch.tokens, "progress": progress, "charges": charges}
            result = score(player, text, method, distributed=distributed, **words)
            seconds, kernels = (forward.compile_seconds, forward.kernels) if forward else (0.0, ())
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None
    breakdown = bit_breakdown(text, charges, context.tokenizer, distributed)
    return MethodScore(result, batch, seconds, clock.forecast, kernels, breakdown=breakdown)


def score_progress(name: str, context: ScoringContext, text: TokenizedText, clock: TimeEstimate) -> ProgressCallback:
    """A callback that shows the share of the targets that this process has scored, bits per byte so far, and speed."""

    def report(done: int, targets: int, bits: float) -> None:
        expected = clock.update(done)
        bpb = bits / done * text.num_targets / text.bytes
        facts = [f"{bpb:.4f} bpb", f"{done / clock.elapsed:,.0f} targets/s", f"{done:,} of {targets:,} targets"]
        if expected > context.time_limit:
            facts.insert(2, clock.describe(expected))
        context.show(Progress(f"score {name}", done / clock.targets, expected - clock.elapsed, tuple(facts)))

    return report
