"""The option `--reuse`: the runs whose stages another run may take over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bitgolf.errors import UsageError
from bitgolf.store.entry import is_run
from bitgolf.store.index import run_folders


def source_runs(folders: Sequence[Path]) -> tuple[Path, ...]:
    """The runs in folders: each is a run, or has runs below it. Raises `UsageError` for a folder without any."""
    found = list[Path]()
    for folder in folders:
        runs = [folder] if is_run(folder) else list(run_folders(folder))
        if not runs:
            message = "there is no run in this folder or below it"
            raise UsageError(message, where=f"--reuse {folder}", hint="`bitgolf runs FOLDER` lists runs")
        found += runs
    return tuple(dict.fromkeys(found))
