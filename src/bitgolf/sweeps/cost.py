"""What runs cost: time of the stages that they executed themselves, in hours of a device."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from bitgolf.files import read_json
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.pipeline.stage_reuse import TAKEN_FROM
from bitgolf.pipeline.state import read_outcomes
from bitgolf.report.log import RunLog
from bitgolf.sweeps.prefix import read_prefix_scores


class SweepCost(msgspec.Struct, frozen=True, kw_only=True):
    """Device hours of finished stages, and of trainings that were left unfinished with a score.

    unit: `GPU-hours`, wall time times the processes that trained; `core-hours` where no GPU was used, times the threads of
    a process as well. spent: by the stages that the runs executed. saved: by those that they took over from other runs.
    """

    unit: str
    spent: float
    saved: float


def spent_cost(runs: Iterable[Path]) -> SweepCost:
    """The cost of runs, from the outcomes in their folders."""
    spent, saved, unit = 0.0, 0.0, "GPU-hours"
    for folder in runs:
        files = RunFiles(folder)
        stages = read_outcomes(folder, RunLog(quiet=True)) if files.stages.exists() else {}
        prefixes = read_prefix_scores(folder)
        trained = stages.get("train") or (msgspec.to_builtins(prefixes[-1]) if prefixes else {})
        devices = float(trained.get("processes", 1))
        if str(trained.get("device", "")).startswith("CPU"):
            unit, devices = "core-hours", devices * (trained.get("threads") or _threads(files))
        own, taken = _seconds(stages)
        own += sum(score.seconds for score in prefixes)
        spent, saved = spent + own * devices / 3600, saved + taken * devices / 3600
    return SweepCost(unit=unit, spent=spent, saved=saved)


def _threads(files: RunFiles) -> int:
    """Threads of a process of a finished run, 1 if that is not known."""
    return int(read_json(files.environment).get("threads", 1)) if files.environment.exists() else 1


def _seconds(stages: dict[str, dict[str, Any]]) -> tuple[float, float]:
    """(seconds of stages that were executed, of those that were taken over)."""
    seconds = [0.0, 0.0]
    for done in stages.values():
        seconds[TAKEN_FROM in done] += float(done.get("seconds", 0.0))
    return seconds[0], seconds[1]
