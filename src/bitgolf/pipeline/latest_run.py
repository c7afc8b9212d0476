"""The word `latest`, which stands for the newest run wherever a command takes the folder of a run."""

from __future__ import annotations

from pathlib import Path

from bitgolf.errors import UsageError
from bitgolf.pipeline.run_files import RunFiles

RUNS_FOLDER = Path("runs")
"""Folder of the runs without `--out`, relative to the working directory."""


def latest_run(runs: Path = RUNS_FOLDER) -> Path:
    """Return the run in `runs` whose files changed last. Raises `UsageError` if there is none."""
    found = [folder for folder in runs.glob("*") if RunFiles(folder).inputs.exists()]
    if not found:
        hint = "`bitgolf run quickstart` creates one; ./latest names a file or folder of this name"
        raise UsageError("there is no run yet", where=f"latest ({runs.absolute()})", hint=hint)
    return max(found, key=_last_change)


def _last_change(folder: Path) -> int:
    """Time (ns) of the last change of a run's log, outcomes or inputs."""
    files = RunFiles(folder)
    return max(path.stat().st_mtime_ns for path in (files.inputs, files.stages, files.log) if path.exists())
