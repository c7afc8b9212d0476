"""The command `runs`: list the runs below a folder by any measure, and remove some."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from bitgolf.commands.tables import table
from bitgolf.errors import UsageError
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.runtime.folder_lock import folder_lock
from bitgolf.store.entry import RunEntry, is_run
from bitgolf.store.index import read_store
from bitgolf.store.measures import RunMeasures, Value, check_measures, parse_condition
from bitgolf.submission.imported import IMPORTED_FILE

COLUMNS = ("name", "recipe", "seed", "state", "bpb", "bytes", "code", "training_seconds", "time")
"""Measures that `runs` shows."""


class RunsListing(msgspec.Struct, frozen=True):
    """The keys of `runs --json`. columns: measures that were asked for; values: those of each run, in its order."""

    root: str
    runs: list[RunEntry]
    columns: list[str]
    values: list[list[Value]]


class RemovedRuns(msgspec.Struct, frozen=True):
    """The keys of `runs --remove --json`: folder -> bytes that it took. removed: False if they were only named."""

    folders: dict[str, int]
    removed: bool


def list_runs(
    root: Path,
    sort: str = "name",
    recipe: str = "",
    *,
    columns: Sequence[str] = COLUMNS,
    where: Sequence[str] = (),
    descending: bool = False,
) -> RunsListing:
    """Return the runs below a folder. Measures are named as in `RunMeasures`.

    sort: a measure; runs without it come last. recipe: part of the name of the recipe or folder, "" for all. where:
    conditions that all hold. Raises `UsageError` for a measure that no run has.
    """
    if not root.is_dir():
        raise UsageError("there is no such folder", where=str(root), hint="`bitgolf run RECIPE` makes runs/")
    conditions = [parse_condition(text) for text in where]
    runs = [RunMeasures(entry, root) for entry in read_store(root)]
    check_measures([sort], runs, "--sort")
    check_measures([condition.measure for condition in conditions], runs, "--where")
    check_measures([name for name in columns if name not in COLUMNS], runs, "--columns")
    chosen = [run for run in runs if recipe in run.entry.recipe or recipe in run.entry.folder]
    chosen = _sorted([run for run in chosen if all(one.holds(run) for one in conditions)], sort, descending=descending)
    values = [[run.value(name) for name in columns] for run in chosen]
    return RunsListing(str(root), [run.entry for run in chosen], list(columns), values)


def _sorted(runs: Sequence[RunMeasures], measure: str, *, descending: bool) -> list[RunMeasures]:
    """Runs by a measure, numbers before texts; those without it last."""
    found = [(value, run) for run in runs if (value := run.value(measure)) is not None]
    found.sort(key=lambda pair: (isinstance(pair[0], str), pair[0]), reverse=descending)
    return [*(run for _, run in found), *(run for run in runs if run.value(measure) is None)]


def remove_runs(folders: Sequence[Path], *, confirmed: bool) -> RemovedRuns:
    """Remove runs, or only say what that would free.

    Raises `UsageError` if a folder has no run, and `BitgolfError` if a process writes to one, before any is removed. A
    removal that is interrupted leaves a run that can be removed again.
    """
    for folder in folders:
        if not is_run(folder):
            raise UsageError("there is no run in this folder", where=str(folder), hint="`bitgolf runs` lists them")
        if folder.is_symlink():
            raise UsageError("a link is not removed", where=str(folder), hint="name the folder that it leads to")
    sizes = {str(folder): disk_bytes(folder) for folder in folders}
    if confirmed:
        with ExitStack() as locks:
            for folder in folders:
                locks.enter_context(folder_lock(folder))
            for folder in folders:
                _remove_run(folder)
    return RemovedRuns(sizes, confirmed)


def _remove_run(folder: Path) -> None:
    """Remove a folder; the files by which it is recognized as a run go last."""
    last = {RunFiles(folder).inputs, folder / IMPORTED_FILE}
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path not in last:
            path.unlink()
    shutil.rmtree(folder)


def disk_bytes(folder: Path) -> int:
    """Return the bytes of all files in a folder; links are not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def runs_table(listing: RunsListing) -> str:
    """Return the runs as a table."""
    if not listing.runs:
        return f"no runs in {listing.root}"
    listed = list(zip(*listing.values, strict=True))
    text = [any(isinstance(value, str) for value in values) for values in listed]
    order = sorted(range(len(text)), key=lambda i: not text[i])  # a table has its texts first
    rows = [[_cell(listing.columns[i], values[i]) for i in order] for values in listing.values]
    headings = [HEADINGS.get(name := listing.columns[i], name) for i in order]
    return table(f"{len(rows):,} runs in {listing.root}", headings, rows, text_columns=sum(text))


HEADINGS = {"name": "run", "training_seconds": "training s", "time": "changed"}


def _cell(measure: str, value: Value) -> str:
    if value is None:
        return "-"
    if measure in ("time", "changed") and isinstance(value, int | float):
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(value))
    if isinstance(value, bool | str):
        return str(value).lower() if isinstance(value, bool) else value
    if isinstance(value, int):
        return str(value) if measure == "seed" else f"{value:,}"
    return f"{value:.5f}" if "bpb" in measure else f"{value:,.0f}" if "seconds" in measure else f"{value:.6g}"


def removal_lines(result: RemovedRuns) -> str:
    """Return what was removed, or would be, as text."""
    verb = "removed" if result.removed else "would be removed"
    lines = [f"{folder}: {size / 1e6:,.1f} MB" for folder, size in result.folders.items()]
    hint = "" if result.removed else "; --yes removes them"
    return "\n".join([*lines, f"{len(lines)} runs, {sum(result.folders.values()) / 1e6:,.1f} MB {verb}{hint}"])
