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
from bitgolf.quantize.calibration.observe import Sums, means, observe
from bitgolf.quantize.calibration.sources import Source, Subject, TrainingText
from bitgolf.quantize.codecs.codec import Codec
from bitgolf.quantize.encoding import Rules
from bitgolf.quantize.stats import Calibration, Stats
from bitgolf.runtime.distributed import ALONE, World, agree, total
from bitgolf.runtime.progress import Reserve


class Measured(NamedTuple):
    """What calibration found: path -> statistics, of the first `batches` batches, in so many seconds."""

    stats: dict[str, Stats]
    batches: int
    seconds: float


@register
class Calibrate:
    """What the model is watched on, and the seconds of the training clock that are kept for it.

    reserve: None measures, before training, how long calibration takes; training ends so much earlier, and calibration
    ends at the limit with the batches that it has by then. A number is taken as it is, and calibration observes all
    its batches, whatever the clock says: so published systems, some of which went over it, can be repeated.
    """

    def __init__(self, *, source: Spec[Source] = part(TrainingText), reserve: float | None = None) -> None:
        if reserve is not None and not reserve >= 0:
            raise RecipeError(f"a reserve is not negative, {reserve} is", place="Calibrate.reserve")
        self.source, self.reserve = source(), reserve

    def rounds(self, world: World, batches: int) -> int:
        """How many batches a process observes at most. Raises `UsageError` where some process would have none."""
        if batches < world.size:
            raise UsageError(
                f"{world.size} processes cannot share {batches} batches of calibration",
                place="calibrate.source",
                mend="more batches (or sequences, or fewer rows), or fewer --devices",
            )
        return -(-batches // world.size)

    def forecast(self, subject: Subject, world: World = ALONE) -> Reserve:
        """How long `measure` will take: its steps are done with one batch, twice, and the second time counts.

        The first process's times count for all; its sums wait for the slowest.
        """
        rounds, batch, sums = self.rounds(world, self.source.batches), self.source.open(subject), Sums()
        times: list[float] = []
        for _ in range(2):
            times = [_now(subject)]
            _observe(sums, subject, batch, world.rank)
            times.append(_now(subject))
            means(_over(sums, world))
            times.append(_now(subject))
        start, observed, end = times
        return Reserve(rounds, agree(observed - start, world), agree(end - observed, world))

    def measure(
        self,
        subject: Subject,
        world: World = ALONE,
        progress: Callable[[int, int], None] = lambda done, of: None,
        *,
        batches: int = 0,
        seconds: float = math.inf,
    ) -> Measured:
        """Statistics of every matrix that was used, over the batches of all processes; the same in each.

        batches: only the first so many; 0 is all.  seconds: no round is begun that would end later, the first excepted.
        `progress` hears (done, of) rounds. Raises `BitgolfError` where the model meets a number that is not finite.
        """
        batches = batches or self.source.batches
        rounds, batch, sums = self.rounds(world, batches), self.source.open(subject), Sums()
        if _device(subject).type != "cpu":  # a first batch loads libraries and chooses kernels, before the clock starts
            _observe(Sums(), subject, batch, world.rank)
        start, done = _now(subject), 0
        for done in _within(seconds, rounds, lambda: _now(subject), world):
            number = (done - 1) * world.size + world.rank
            if number < batches:
                _observe(sums, subject, batch, number)
            progress(done, rounds)
        stats = means(_over(sums, world))
        return Measured(stats, min(batches, done * world.size), _now(subject) - start)


def _observe(sums: Sums, subject: Subject, batch: Callable[[int], Tensor], number: int) -> None:
    """Each batch draws its targets by its own number, so it does not matter who observes it."""
    _add(sums, observe(subject.model, [batch(number)], seed=number, autocast=subject.autocast))


def _within(seconds: float, rounds: int, now: Callable[[], float], world: World) -> Iterator[int]:
    """The rounds 1, 2, … that end in time, as far as the longest so far tells.

    The first process decides for all: one that went on alone would wait for the others' sums forever.
    """
    start, longest = now(), 0.0
    for done in range(1, rounds + 1):
        began = now()
        if done > 1 and seconds < math.inf and not agree(began - start + longest <= seconds, world):
            return
        yield done
        longest = max(longest, now() - began)


def _now(subject: Subject) -> float:
    """Seconds, once the device has done what it was given."""
    torch.get_device_module(_device(subject)).synchronize()
    return time.perf_counter()


def _device(subject: Subject) -> torch.device:
    return next(subject.model.parameters()).device


def check(rules: Rules, calibrate: Spec[Any] | None, processes: int = 1) -> None:
    """Raises `RecipeError` unless a recipe calibrates exactly where a codec asks for it.

    calibrate: what the recipe says there; `processes` share its batches.
    """
    codecs = enumerate(rule().use() for rule in rules)
    asking = [i for i, codec in codecs if isinstance(codec, Codec) and codec.calibrated]
    if calibrate is None:
        if asking:
            raise RecipeError(
                "its codec asks for calibration, and the recipe has none",
                place=f"quantize.{asking[0]}.use",
                mend="--set 'calibrate=Calibrate()', or a codec that rounds to the nearest",
            )
        return
    built = calibrate()
    if not isinstance(built, Calibrate):
        raise RecipeError(f"{calibrate.name} is no calibration", place="calibrate")
    if not asking:
        raise RecipeError(
            "no codec asks for calibration, so it would do nothing",
            place="calibrate",
            mend="--set calibrate=none, or a codec that uses it, such as IntRows(solve=Gptq())",
        )
    built.rounds(World(size=processes), built.source.batches)


# ---- sums of many ------------------------------------------------------------------------------------------------


def _add(sums: Sums, more: Sums) -> None:
    for name, own in _by_path(sums).items():
        for path, value in _by_path(more)[name].items():
            own[path] = own[path] + value if path in own and isinstance(value, Tensor) else value
    sums.tokens += more.tokens


def _over(sums: Sums, world: World) -> Sums:
    """The sums over all processes, in each of them. All ask for the same tensors in the same order, else they would wait forever."""
    for _, own in sorted(_by_path(sums).items()):
        own.update({path: total(v, world) if isinstance(v, Tensor) else v for path, v in sorted(own.items())})
    sums.tokens = int(total(torch.tensor(sums.tokens, device=world.device), world))
    return sums


def _by_path(sums: Sums) -> dict[str, dict[str, Any]]:
    """All that was seen, by its kind: sums of tensors, and which matrices read one input."""
    return {kind: seen for kind, seen in vars(sums).items() if isinstance(seen, dict)}


def distinct(stats: Calibration) -> int:
    """How many Hessians there are, shared ones counted once."""
    return len({id(s.hessian) for s in stats.values()})
