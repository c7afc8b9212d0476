"""The commands on record folders: `check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from bitgolf.cli.completion import one_of
from bitgolf.cli.options import MOST_PROCESSES, JsonFlag, print_result, start_work
from bitgolf.errors import UsageError
from bitgolf.report.display import current_display

LEAST_SEVERITIES = ("error", "warning", "note")
FoldersArgument = Annotated[
    list[Path], typer.Argument(metavar="FOLDER…", help="Record folders, or folders that contain some at any depth.")
]
LeastOption = Annotated[
    str,
    typer.Option(
        "--least",
        metavar="SEVERITY",
        autocompletion=one_of(*LEAST_SEVERITIES),
        help="List findings from this severity on: error, warning or note. Default: note for one folder, error for more.",
    ),
]
CheckProcesses = Annotated[
    int,
    typer.Option("--processes", metavar="N", min=0, max=MOST_PROCESSES, help="Processes. Default: one on each core."),
]


def check(
    folders: FoldersArgument, least: LeastOption = "", processes: CheckProcesses = 0, as_json: JsonFlag = False
) -> None:
    """Check record folders of the challenge, anybody's: claims, logs, sizes, clocks, data, and what the code does.

    Nothing in a folder is run: packed code is unpacked by reading. docs/rules.md explains each rule, and how it can be
    wrong. The exit status is 1 if a finding is an error.
    """
    if least and least not in LEAST_SEVERITIES:
        raise UsageError(f"--least must be error, warning or note, got {least!r}")
    start_work()
    from bitgolf.commands.check import check_folders, check_lines
    from bitgolf.report.findings import Severity

    result = check_folders(folders, processes, current_display().progress)
    current_display().end_progress()
    print_result(as_json, result, check_lines(result, cast(Severity, least) if least else None))
    if not result.passes:
        raise typer.Exit(1)
