"""The command `runs`: list the runs below a folder, and remove some."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bitgolf.commands.tables import table
from bitgolf.errors import UsageError
from bitgolf.store.entry import RunEntry, is_run
from bitgolf.store.index import read_store

SORTS: dict[str, Callable[[RunEntry], Any]] = {
    "name": lambda entry: entry.folder,
    "bpb": lambda entry: entry.best_bpb,
    "bytes": lambda entry: entry.bytes,
    "seconds": lambda entry: entry.training_seconds,
    "time": lambda entry: entry.changed,
}
"""Measures by which runs are sorted; those without it come last."""


class RunsListing(msgspec.Struct, frozen=True):
    """The keys of `runs --json`."""

    root: str
    runs: list[RunEntry]


class RemovedRuns(msgspec.Struct, frozen=True):
    """The keys of `runs --remove --json`: folder -> bytes that it took. removed: False if they were only named."""

    folders: dict[str, int]
    removed: bool


def list_runs(root: Path, sort: str, recipe: str) -> RunsListing:
    """Return the runs below a folder. recipe: part of the name of the recipe or folder, "" for all."""
    if not root.is_dir():
        raise UsageError("there is no such folder", where=str(root), hint="`bitgolf run RECIPE` makes runs/")
    if sort not in SORTS:
        raise UsageError(f"cannot sort by {sort!r}", where="--sort", hint=f"sort by {', '.join(SORTS)}")
    chosen = [entry for entry in read_store(root) if recipe in entry.recipe or recipe in entry.folder]
    measure = SORTS[sort]
    return RunsListing(str(root), sorted(chosen, key=lambda entry: ((key := measure(entry)) is None, key)))


def remove_runs(folders: Sequence[Path], *, confirmed: bool) -> RemovedRuns:
    """Remove runs, or only say what that would free. Raises `UsageError` if a folder has no run, before any is removed."""
    for folder in folders:
        if not is_run(folder):
            raise UsageError("there is no run in this folder", where=str(folder), hint="`bitgolf runs` lists them")
        if folder.is_symlink():
            raise UsageError("a link is not removed", where=str(folder), hint="name the folder that it leads to")
    sizes = {str(folder): disk_bytes(folder) for folder in folders}
    if confirmed:
        for folder in folders:
            shutil.rmtree(folder)
    return RemovedRuns(sizes, confirmed)


def disk_bytes(folder: Path) -> int:
    """Return the bytes of all files in a folder; links are not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def runs_table(listing: RunsListing) -> str:
    """Return the runs as a table."""
    if not listing.runs:
        return f"no runs in {listing.root}"
    rows = [
        (
            entry.folder,
            entry.recipe,
            "-" if entry.seed is None else str(entry.seed),
            _state(entry),
            "-" if entry.best_bpb is None else f"{entry.best_bpb:.5f}",
            "-" if entry.bytes is None else f"{entry.bytes:,}",
            "-" if entry.training_seconds is None else f"{entry.training_seconds:,.0f}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.changed)),
        )
        for entry in listing.runs
    ]
    columns = ("run", "recipe", "seed", "state", "bpb", "bytes", "training s", "changed")
    return table(f"{len(rows):,} runs in {listing.root}", columns, rows, text_columns=4)


def _state(entry: RunEntry) -> str:
    if entry.kind == "imported" or entry.state.startswith(("damaged", "stopped")):
        return entry.state
    return "done" if entry.state == "report" else f"up to {entry.state}" if entry.state else "not started"


def removal_lines(result: RemovedRuns) -> str:
    """Return what was removed, or would be, as text."""
    verb = "removed" if result.removed else "would be removed"
    lines = [f"{folder}: {size / 1e6:,.1f} MB" for folder, size in result.folders.items()]
    hint = "" if result.removed else "; --yes removes them"
    return "\n".join([*lines, f"{len(lines)} runs, {sum(result.folders.values()) / 1e6:,.1f} MB {verb}{hint}"])
