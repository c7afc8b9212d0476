"""The command `import`: runs of others, from the logs of their record folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from bitgolf.errors import UsageError
from bitgolf.report.progress import ShowProgress, WorkProgress
from bitgolf.store.entry import is_run
from bitgolf.submission.folder import record_folders
from bitgolf.submission.imported import IMPORTED_FILE, ImportedRun, folder_names, import_record, write_imported


class ImportedFolder(msgspec.Struct, frozen=True):
    """A run folder that was written. run: its content."""

    folder: str
    run: ImportedRun


class ImportResult(msgspec.Struct, frozen=True):
    """The keys of `import --json`. without_logs: record folders in which no log of a run was found."""

    imported: list[ImportedFolder]
    without_logs: list[str]


def import_folders(paths: Sequence[Path], out: Path, show: ShowProgress) -> ImportResult:
    """Write a run folder below `out` for each log of the record folders at and below `paths`.

    A folder that was imported before is replaced; one with another run is refused before anything is written.
    """
    sources = list(record_folders(paths))
    progress, found, without = WorkProgress(show, "import", "folders"), dict[Path, ImportedRun](), list[str]()
    for done, source in enumerate(sources, 1):
        runs = import_record(source)
        without += [] if runs else [str(source)]
        for name, run in zip(folder_names(runs), runs, strict=True):
            folder = _free_name(out / name, run, found)
            if is_run(folder) and not (folder / IMPORTED_FILE).exists():
                raise UsageError("another run is there", where=str(folder), hint="choose another --out")
            found[folder] = run
        progress.update(done, len(sources))
    for folder, run in found.items():
        write_imported(folder, run)
    return ImportResult([ImportedFolder(str(folder), run) for folder, run in found.items()], without)


def _free_name(folder: Path, run: ImportedRun, taken: dict[Path, ImportedRun]) -> Path:
    """Return a folder that no run of another source has in this import: records of equal names get numbers."""
    number, free = 2, folder
    while free in taken and taken[free].source != run.source:
        number, free = number + 1, folder.with_name(f"{folder.name}-{number}")
    return free


def import_lines(result: ImportResult) -> str:
    """Return the result as text."""
    lines = []
    for item in result.imported:
        scores = ", ".join(f"{stage} {bpb:.5f}" for stage, bpb in item.run.bpb.items())
        size = f", {item.run.total_bytes:,} bytes" if item.run.total_bytes else ""
        lines.append(f"{item.folder}: {scores}{size}")
    lines += [f"{folder}: no log of a run" for folder in result.without_logs]
    return "\n".join([*lines, f"{len(result.imported):,} runs imported"])
