"""What the trainings of a sweep will cost, as far as that is known before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from bitgolf.pipeline.run_files import RunFiles
from bitgolf.pipeline.stage_reuse import TAKEN_FROM
from bitgolf.pipeline.state import read_outcomes
from bitgolf.report.log import RunLog
from bitgolf.sweeps.folder import RunUnit
from bitgolf.sweeps.prefix import read_prefix_scores
from bitgolf.sweeps.waves import training_identity


def expected_cost(
    units: Iterable[RunUnit], runs: Sequence[Path], processes: int, done: Mapping[str, float] | None = None
) -> str:
    """The number and the cost of the trainings of runs, in words; "" without any.

    A training on a clock takes as long as its clock. One of a fixed number of steps is taken to be as long as the mean
    of those so far. runs: folders of the sweep so far. processes: of a training; an hour of each is a device-hour.
    done: `training_identity` -> share of the training that is done and will be continued.
    """
    trainings = {training_identity(unit): unit for unit in units}
    if not trainings:
        return ""
    shares = [_end(unit) - (done or {}).get(identity, 0.0) for identity, unit in trainings.items()]
    limits = [unit.recipe["train.seconds"] for unit in trainings.values()]
    count = f"{len(limits):,} training{'s' if len(limits) > 1 else ''}"
    if all(limits):
        return f"{count} on a clock: about {_total(limits, shares) * processes / 3600:.3f} device-hours"
    if not (known := _training_seconds(runs)):
        return f"{count}: {'their' if len(limits) > 1 else 'its'} cost is known after the first run"
    seconds = _total([limit or fmean(known) for limit in limits], shares)
    return f"{count} as long as the runs so far: about {seconds * processes / 3600:.3f} device-hours"


def _total(seconds: Sequence[float], shares: Sequence[float]) -> float:
    return sum(whole * share for whole, share in zip(seconds, shares, strict=True))


def _end(unit: RunUnit) -> float:
    """The share of the recipe's training at which a run will end."""
    return unit.share if unit.prefix_tokens else 1.0


def _training_seconds(runs: Iterable[Path]) -> list[float]:
    """Seconds of the trainings that runs executed themselves; of one that was left unfinished, of the whole at its pace."""
    found = list[float]()
    for run in runs:
        done = read_outcomes(run, RunLog(quiet=True)).get("train", {}) if RunFiles(run).stages.exists() else {}
        prefixes = read_prefix_scores(run)
        before = sum(score.seconds for score in prefixes)
        if done and TAKEN_FROM not in done:
            found.append(float(done["seconds"]) + before)
        elif prefixes:
            found.append(before / max(score.share for score in prefixes))
    return found
