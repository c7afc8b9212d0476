"""Calibration: measures the statistics of a model's matrices that codecs need, over a fixed set of batches.

Each process observes different batches, and the sums are reduced over all processes. (In openai/parameter-golf, pull
request 1855, each of 8 ranks kept its own sums and only rank 0 saved them, which discarded seven eighths of the work.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from bitgolf.config.ranges import Range, Seconds
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.data.manifest import open_split
from bitgolf.errors import RecipeError, UsageError
from bitgolf.quantize.calibration.hessians import HessianKind
from bitgolf.quantize.calibration.observe import StatsAccumulator, matrix_stats, observe
from bitgolf.quantize.calibration.row_usage import count_row_usage
from bitgolf.quantize.calibration.sources import CalibrationContext, CalibrationSource, TrainingText
from bitgolf.quantize.codecs.codec import Codec, IntRows
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.encoding import Rules
from bitgolf.quantize.stats import MatrixStats, StatsByPath
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext, all_reduce_sum, broadcast_scalar
from bitgolf.runtime.progress import CalibrationReserve


class CalibrationResult(NamedTuple):
    """Path -> statistics of the matrix, the number of batches over all processes, and the duration in seconds."""

    stats: dict[str, MatrixStats]
    batches: int
    seconds: float


@register
class Calibrate:
    """The calibration text, and the time that is reserved for calibration at the end of training.

    source: the batches.
    hessians: weighted or two-sided Hessians instead of those of the inputs; they say what memory they need.
    reserve: seconds by which training ends before its time limit. None measures the duration of calibration before
    training starts; calibration then stops at the time limit with the batches observed so far. With a number,
    calibration observes all its batches even past the limit, as some published systems did.
    usage_tokens: number of training tokens in which the uses of the rows of lookup tables and of the head are counted,
    spread evenly over the training text; all of it if it has no more. 0 counts none: rows that the calibration text does
    not use then have no sensitivity, as in the published systems.
    """

    def __init__(
        self,
        *,
        source: Spec[CalibrationSource] = part(TrainingText),
        hessians: Spec[HessianKind] | None = None,
        reserve: Seconds | None = None,
        usage_tokens: Annotated[int, Range(0, 2**40)] = 50_000_000,
    ) -> None:
        if reserve is not None and not reserve >= 0:
            raise RecipeError(f"reserve must be at least 0 seconds, got {reserve}", where="Calibrate.reserve")
        self.source, self.reserve, self.usage_tokens = source(), reserve, usage_tokens
        self.hessians = hessians() if hessians else None

    def rounds(self, distributed: DistributedContext, batches: int) -> int:
        """Largest number of batches of one process. Raises `UsageError` if there are fewer batches than processes."""
        if batches < distributed.world_size:
            raise UsageError(
                f"{distributed.world_size} processes cannot share {batches} batches of calibration",
                where="calibrate.source",
                hint="set more batches (or more sequences, or fewer rows), or use fewer --devices",
            )
        return -(-batches // distributed.world_size)

    def estimate_reserve(
        self, subject: CalibrationContext, distributed: DistributedContext = SINGLE_PROCESS
    ) -> CalibrationReserve:
        """Estimated duration of `collect`, by timing its steps on one batch; the first of two repetitions is warm-up.

        Returns the times of rank 0 on every process. They include waiting for the slowest process in the reductions.
        """
        rounds, batch, sums = (
            self.rounds(distributed, self.source.batches),
            self.source.open(subject),
            StatsAccumulator(self.hessians),
        )
        times: list[float] = []
        for _ in range(2):
            times = [_synchronized_time(subject)]
            _observe(sums, subject, batch, distributed.rank)
            times.append(_synchronized_time(subject))
            matrix_stats(_all_reduce(sums, distributed), self._row_usage(subject, distributed))
            times.append(_synchronized_time(subject))
        start, observed, end = times
        return CalibrationReserve(
            rounds, broadcast_scalar(observed - start, distributed), broadcast_scalar(end - observed, distributed)
        )

    def _row_usage(self, subject: CalibrationContext, distributed: DistributedContext) -> dict[str, Tensor]:
        if not self.usage_tokens:
            return {}
        return count_row_usage(subject.model, open_split(subject.data, "train"), self.usage_tokens, distributed)

    def collect(
        self,
        subject: CalibrationContext,
        distributed: DistributedContext = SINGLE_PROCESS,
        progress: Callable[[int, int], None] = lambda done, of: None,
        *,
        batches: int = 0,
        seconds: float = math.inf,
    ) -> CalibrationResult:
        """Statistics of every matrix that was used, over the batches of all processes; identical on each process.

        batches: number of batches to observe, from the first on; 0 observes all of the source.
        seconds: a round of one batch per process is skipped if it would end later than this; the first always runs.
        progress: called with (done, total) rounds.
        Raises `BitgolfError` if logits or statistics are not finite.
        """
        batches = batches or self.source.batches
        rounds, batch = self.rounds(distributed, batches), self.source.open(subject)
        sums = StatsAccumulator(self.hessians)
        if _device(subject).type != "cpu":  # warm-up: loads libraries and selects kernels before time is measured
            _observe(StatsAccumulator(self.hessians), subject, batch, distributed.rank)
        start, done = _synchronized_time(subject), 0
        usage = self._row_usage(subject, distributed)
        seconds -= broadcast_scalar(_synchronized_time(subject) - start, distributed)
        for done in _rounds_in_time(seconds, rounds, lambda: _synchronized_time(subject), distributed):
            number = (done - 1) * distributed.world_size + distributed.rank
            if number < batches:
                _observe(sums, subject, batch, number)
            progress(done, rounds)
        stats = matrix_stats(_all_reduce(sums, distributed), usage)
        return CalibrationResult(
            stats, min(batches, done * distributed.world_size), _synchronized_time(subject) - start
        )


def _observe(sums: StatsAccumulator, subject: CalibrationContext, batch: Callable[[int], Tensor], number: int) -> None:
    """Add batch `number` to the sums. The number seeds the sampled targets, so any process may observe the batch."""
    kind = sums.weighted.kind if sums.weighted else None
    _accumulate(sums, observe(subject.model, [batch(number)], seed=number, autocast=subject.autocast, kind=kind))


def _rounds_in_time(
    seconds: float, rounds: int, now: Callable[[], float], distributed: DistributedContext
) -> Iterator[int]:
    """Yield rounds 1, 2, … as long as another round of the longest duration so far would end within `seconds`.

    Rank 0 decides for all processes, since unequal numbers of rounds would deadlock the reductions.
    """
    start, longest = now(), 0.0
    for done in range(1, rounds + 1):
        began = now()
        if done > 1 and seconds < math.inf and not broadcast_scalar(began - start + longest <= seconds, distributed):
            return
        yield done
        longest = max(longest, now() - began)


def _synchronized_time(subject: CalibrationContext) -> float:
    """Time in seconds, after all queued work of the device has finished."""
    torch.get_device_module(_device(subject)).synchronize()
    return time.perf_counter()


def _device(subject: CalibrationContext) -> torch.device:
    return next(subject.model.parameters()).device


def check_calibration(rules: Rules, calibrate: Spec[Any] | None, processes: int = 1) -> None:
    """Raises `RecipeError` if a codec needs calibration and the recipe has none, or the reverse.

    calibrate: the recipe's `calibrate`.  processes: number of processes that share its batches; raises `UsageError` if
    there are too few batches for them.
    """
    codecs = [rule().use() for rule in rules]
    users = [i for i, codec in enumerate(codecs) if isinstance(codec, Codec) and codec.needs_calibration]
    if calibrate is None:
        if users:
            raise RecipeError(
                f"{type(codecs[users[0]]).__name__} needs calibration, but the recipe has none",
                where=f"quantize.{users[0]}.use",
                hint="use --set 'calibrate=Calibrate()', or a codec without calibration, such as IntRows()",
            )
        return
    built = calibrate()
    if not isinstance(built, Calibrate):
        raise RecipeError(f"expected Calibrate, got {calibrate.name}", where="calibrate")
    if not users:
        raise RecipeError(
            "no codec needs calibration, so it would have no effect",
            where="calibrate",
            hint="use --set calibrate=none, or a codec that needs it, such as IntRows(solver=GPTQ())",
        )
    built.rounds(DistributedContext(world_size=processes), built.source.batches)
    _check_hessians(built.hessians, codecs)


def _check_hessians(kind: HessianKind | None, codecs: Sequence[object]) -> None:
    """Raises `RecipeError` if no codec uses the Hessians that calibration measures."""
    inner = [codec.codec if isinstance(codec, LQER) else codec for codec in codecs]
    used = kind is None or (not kind.outputs and kind.row_groups == 1)
    if not used and not any(isinstance(codec, IntRows) and codec.solver for codec in inner):
        raise RecipeError(
            f"no codec uses the Hessians that {type(kind).__name__} measures, so they would have no effect",
            where="calibrate.hessians",
            hint="use IntRows(solver=GPTQ()), or GuidedHessians(row_groups=1), which every codec uses",
        )


# ---- sums over batches and processes -----------------------------------------------------------------------------


def _accumulate(sums: StatsAccumulator, more: StatsAccumulator) -> None:
    """Add the sums of `more` to `sums`."""
    for name, own in _by_path(sums).items():
        for path, value in _by_path(more)[name].items():
            own[path] = own[path] + value if path in own and isinstance(value, Tensor) else value
    sums.tokens += more.tokens


def _all_reduce(sums: StatsAccumulator, distributed: DistributedContext) -> StatsAccumulator:
    """Sums over all processes, on every process. All reduce tensors in the same, sorted order, to avoid deadlocks."""
    for _, own in sorted(_by_path(sums).items()):
        own.update(
            {path: all_reduce_sum(v, distributed) if isinstance(v, Tensor) else v for path, v in sorted(own.items())}
        )
    sums.tokens = int(all_reduce_sum(torch.tensor(sums.tokens, device=distributed.device), distributed))
    return sums


def _by_path(sums: StatsAccumulator) -> dict[str, dict[str, Any]]:
    """The dictionaries of an accumulator (keys are paths), by attribute name."""
    weighted = {f"weighted.{name}": value for name, value in vars(sums.weighted).items()} if sums.weighted else {}
    return {name: value for name, value in {**vars(sums), **weighted}.items() if isinstance(value, dict)}


def count_hessians(stats: StatsByPath) -> int:
    """Number of distinct Hessians; one that several matrices share counts once."""
    return len({id(s.hessian) for s in stats.values()})
