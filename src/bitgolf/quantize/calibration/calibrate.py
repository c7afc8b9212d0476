"""Calibration: what the codecs must know of a model's matrices, measured before they are rounded.

Every process observes batches of its own; the sums are those of all. (In published runs each rank kept what it had
seen, and only the first one's file was written: seven eighths of the work lost. openai/parameter-golf, pull request 1855.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError, UsageError
from bitgolf.quantize.calibration.observe import StatsAccumulator, matrix_stats, observe
from bitgolf.quantize.calibration.sources import CalibrationContext, CalibrationSource, TrainingText
from bitgolf.quantize.codecs.codec import Codec
from bitgolf.quantize.encoding import Rules
from bitgolf.quantize.stats import MatrixStats, StatsByPath
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext, all_reduce_sum, broadcast_scalar
from bitgolf.runtime.progress import CalibrationReserve


class CalibrationResult(NamedTuple):
    """What calibration found: path -> statistics, of the first `batches` batches, in so many seconds."""

    stats: dict[str, MatrixStats]
    batches: int
    seconds: float


@register
class Calibrate:
    """What the model is watched on, and the seconds of the training clock that are kept for it.

    reserve: None measures, before training, how long calibration takes; training ends so much earlier, and calibration
    ends at the limit with the batches that it has by then. A number is taken as it is, and calibration observes all
    its batches, whatever the clock says: so published systems, some of which went over it, can be repeated.
    """

    def __init__(self, *, source: Spec[CalibrationSource] = part(TrainingText), reserve: float | None = None) -> None:
        if reserve is not None and not reserve >= 0:
            raise RecipeError(f"a reserve is not negative, {reserve} is", where="Calibrate.reserve")
        self.source, self.reserve = source(), reserve

    def rounds(self, distributed: DistributedContext, batches: int) -> int:
        """How many batches a process observes at most. Raises `UsageError` where some process would have none."""
        if batches < distributed.world_size:
            raise UsageError(
                f"{distributed.world_size} processes cannot share {batches} batches of calibration",
                where="calibrate.source",
                hint="more batches (or sequences, or fewer rows), or fewer --devices",
            )
        return -(-batches // distributed.world_size)

    def estimate_reserve(
        self, subject: CalibrationContext, distributed: DistributedContext = SINGLE_PROCESS
    ) -> CalibrationReserve:
        """How long `collect` will take: its steps are done with one batch, twice, and the second time counts.

        The first process's times count for all; its sums wait for the slowest.
        """
        rounds, batch, sums = (
            self.rounds(distributed, self.source.batches),
            self.source.open(subject),
            StatsAccumulator(),
        )
        times: list[float] = []
        for _ in range(2):
            times = [_synchronized_time(subject)]
            _observe(sums, subject, batch, distributed.rank)
            times.append(_synchronized_time(subject))
            matrix_stats(_all_reduce(sums, distributed))
            times.append(_synchronized_time(subject))
        start, observed, end = times
        return CalibrationReserve(
            rounds, broadcast_scalar(observed - start, distributed), broadcast_scalar(end - observed, distributed)
        )

    def collect(
        self,
        subject: CalibrationContext,
        distributed: DistributedContext = SINGLE_PROCESS,
        progress: Callable[[int, int], None] = lambda done, of: None,
        *,
        batches: int = 0,
        seconds: float = math.inf,
    ) -> CalibrationResult:
        """Statistics of every matrix that was used, over the batches of all processes; the same in each.

        batches: only the first so many; 0 is all.  seconds: no round is begun that would end later, the first excepted.
        `progress` hears (done, of) rounds. Raises `BitgolfError` where the model meets a number that is not finite.
        """
        batches = batches or self.source.batches
        rounds, batch, sums = self.rounds(distributed, batches), self.source.open(subject), StatsAccumulator()
        if _device(subject).type != "cpu":  # a first batch loads libraries and chooses kernels, before the clock starts
            _observe(StatsAccumulator(), subject, batch, distributed.rank)
        start, done = _synchronized_time(subject), 0
        for done in _rounds_in_time(seconds, rounds, lambda: _synchronized_time(subject), distributed):
            number = (done - 1) * distributed.world_size + distributed.rank
            if number < batches:
                _observe(sums, subject, batch, number)
            progress(done, rounds)
        stats = matrix_stats(_all_reduce(sums, distributed))
        return CalibrationResult(
            stats, min(batches, done * distributed.world_size), _synchronized_time(subject) - start
        )


def _observe(sums: StatsAccumulator, subject: CalibrationContext, batch: Callable[[int], Tensor], number: int) -> None:
    """Each batch draws its targets by its own number, so it does not matter who observes it."""
    _accumulate(sums, observe(subject.model, [batch(number)], seed=number, autocast=subject.autocast))


def _rounds_in_time(
    seconds: float, rounds: int, now: Callable[[], float], distributed: DistributedContext
) -> Iterator[int]:
    """The rounds 1, 2, … that end in time, as far as the longest so far tells.

    The first process decides for all: one that went on alone would wait for the others' sums forever.
    """
    start, longest = now(), 0.0
    for done in range(1, rounds + 1):
        began = now()
        if done > 1 and seconds < math.inf and not broadcast_scalar(began - start + longest <= seconds, distributed):
            return
        yield done
        longest = max(longest, now() - began)


def _synchronized_time(subject: CalibrationContext) -> float:
    """Seconds, once the device has done what it was given."""
    torch.get_device_module(_device(subject)).synchronize()
    return time.perf_counter()


def _device(subject: CalibrationContext) -> torch.device:
    return next(subject.model.parameters()).device


def check_calibration(rules: Rules, calibrate: Spec[Any] | None, processes: int = 1) -> None:
    """Raises `RecipeError` unless a recipe calibrates exactly where a codec asks for it.

    calibrate: what the recipe says there; `processes` share its batches.
    """
    codecs = enumerate(rule().use() for rule in rules)
    asking = [i for i, codec in codecs if isinstance(codec, Codec) and codec.needs_calibration]
    if calibrate is None:
        if asking:
            raise RecipeError(
                "its codec asks for calibration, and the recipe has none",
                where=f"quantize.{asking[0]}.use",
                hint="--set 'calibrate=Calibrate()', or a codec that rounds to the nearest",
            )
        return
    built = calibrate()
    if not isinstance(built, Calibrate):
        raise RecipeError(f"{calibrate.name} is no calibration", where="calibrate")
    if not asking:
        raise RecipeError(
            "no codec asks for calibration, so it would do nothing",
            where="calibrate",
            hint="--set calibrate=none, or a codec that uses it, such as IntRows(solver=GPTQ())",
        )
    built.rounds(DistributedContext(world_size=processes), built.source.batches)


# ---- sums of many ------------------------------------------------------------------------------------------------


def _accumulate(sums: StatsAccumulator, more: StatsAccumulator) -> None:
    for name, own in _by_path(sums).items():
        for path, value in _by_path(more)[name].items():
            own[path] = own[path] + value if path in own and isinstance(value, Tensor) else value
    sums.tokens += more.tokens


def _all_reduce(sums: StatsAccumulator, distributed: DistributedContext) -> StatsAccumulator:
    """The sums over all processes, in each of them. All ask for the same tensors in the same order, else they would wait forever."""
    for _, own in sorted(_by_path(sums).items()):
        own.update(
            {path: all_reduce_sum(v, distributed) if isinstance(v, Tensor) else v for path, v in sorted(own.items())}
        )
    sums.tokens = int(all_reduce_sum(torch.tensor(sums.tokens, device=distributed.device), distributed))
    return sums


def _by_path(sums: StatsAccumulator) -> dict[str, dict[str, Any]]:
    """All that was seen, by its kind: sums of tensors, and which matrices read one input."""
    return {kind: seen for kind, seen in vars(sums).items() if isinstance(seen, dict)}


def count_hessians(stats: StatsByPath) -> int:
    """How many Hessians there are, shared ones counted once."""
    return len({id(s.hessian) for s in stats.values()})
