"""What the trainings of a sweep will cost, as far as that is known before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from bitgolf.pipeline.run_files import RunFiles
from bitgolf.pipeline.stage_reuse import TAKEN_FROM
from bitgolf.pipeline.state import read_outcomes
from bitgolf.report.log import RunLog
from bitgolf.sweeps.folder import RunUnit
from bitgolf.sweeps.waves import training_identity


def expected_cost(units: Iterable[RunUnit], runs: Sequence[Path], processes: int) -> str:
    """The number and the cost of the trainings of runs, in words; "" without any.

    A training on a clock takes as long as its clock. One of a fixed number of steps is taken to be as long as the mean
    of those so far. runs: folders of the sweep so far. processes: of a training; an hour of each is a device-hour.
    """
    trainings = {training_identity(unit): unit for unit in units}
    if not trainings:
        return ""
    limits = [unit.recipe["train.seconds"] for unit in trainings.values()]
    count = f"{len(limits):,} training{'s' if len(limits) > 1 else ''}"
    if all(limits):
        return f"{count} on a clock: about {sum(limits) * processes / 3600:.3f} device-hours"
    if not (known := _training_seconds(runs)):
        return f"{count}: {'their' if len(limits) > 1 else 'its'} cost is known after the first run"
    seconds = sum(limit or fmean(known) for limit in limits)
    return f"{count} as long as the runs so far: about {seconds * processes / 3600:.3f} device-hours"


def _training_seconds(runs: Iterable[Path]) -> list[float]:
    """Seconds of the trainings that runs executed themselves."""
    outcomes = [
        read_outcomes(run, RunLog(quiet=True)).get("train", {}) for run in runs if RunFiles(run).stages.exists()
    ]
    return [float(done["seconds"]) for done in outcomes if done and TAKEN_FROM not in done]
