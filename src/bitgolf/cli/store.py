"""The commands on many runs: `runs`, `compare`, `import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.cli.completion import complete_run, one_of
from bitgolf.cli.options import JsonFlag, print_result, start_work
from bitgolf.errors import UsageError
from bitgolf.report.display import current_display

MEASURE_NAMES = (
    "name", "recipe", "hash", "seed", "state", "bpb", "bpb.packed", "bytes", "params", "tokens", "steps", "seconds",
    "training_seconds", "time",
)  # fmt: skip
"""Measures that the shell completes. Paths into the result and of settings are measures, too."""
RootArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder below which runs are found.")]
ColumnsOption = Annotated[
    str,
    typer.Option(
        "--columns",
        metavar="MEASURES",
        help="Measures to show, separated by commas: bpb, bytes, seed, …, a path into score.json such as"
        " bytes.self_contained, or a setting such as train.steps.",
    ),
]
WhereOption = Annotated[
    list[str],
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Only runs that fulfil it: 'bpb<1.2', 'seed=0', 'recipe=quick*'. Repeatable.",
    ),
]
SortOption = Annotated[
    str,
    typer.Option("--sort", metavar="MEASURE", autocompletion=one_of(*MEASURE_NAMES), help="Sort by a measure."),
]
DescendingFlag = Annotated[bool, typer.Option("--descending", help="The largest values first.")]
RecipeFilter = Annotated[
    str, typer.Option("--recipe", metavar="NAME", help="Only runs whose recipe or folder has this in its name.")
]
RemoveOption = Annotated[
    list[Path],
    typer.Option(
        "--remove", metavar="RUN", autocompletion=complete_run, help="Say what removing a run frees. Repeatable."
    ),
]
GroupFlag = Annotated[
    bool,
    typer.Option("--group", help="One row for each recipe: mean and spread of its seeds, such as those of a sweep."),
]
YesFlag = Annotated[bool, typer.Option("--yes", help="Remove the runs of --remove.")]


def runs(
    root: RootArgument = Path("runs"),
    columns: ColumnsOption = "",
    where: WhereOption = [],  # noqa: B006
    sort: SortOption = "name",
    descending: DescendingFlag = False,
    recipe: RecipeFilter = "",
    group: GroupFlag = False,
    remove: RemoveOption = [],  # noqa: B006
    yes: YesFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """List the runs below a folder, own and imported ones, or remove some of them.

    Facts of unchanged runs come from an index, FOLDER/index.sqlite, which is made anew whenever it is missing.
    """
    if yes and not remove:
        raise UsageError("--yes does nothing without --remove", hint="name the runs to remove: --remove RUN --yes")
    if group and columns:
        hint = "leave one of the two options out; --where and --sort choose and order the runs of the groups"
        raise UsageError("--group has columns of its own", where=f"--columns {columns}", hint=hint)
    start_work()
    from bitgolf.commands.list_runs import COLUMNS, list_runs, removal_lines, remove_runs, runs_table
    from bitgolf.commands.run_groups import group_runs, groups_table

    if remove:
        removed = remove_runs(remove, confirmed=yes)
        return print_result(as_json, removed, removal_lines(removed))
    shown = [name.strip() for name in columns.split(",")] if columns else COLUMNS
    listing = list_runs(root, sort, recipe, columns=shown, where=where, descending=descending)
    if group:
        grouped = group_runs(listing.root, listing.runs)
        return print_result(as_json, grouped, groups_table(grouped))
    return print_result(as_json, listing, runs_table(listing))


GroupsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="GROUP…",
        autocompletion=complete_run,
        help="Groups of runs: a folder, a quoted pattern ('runs/quickstart-*'), or several separated by commas. The folder "
        "of a sweep stands for its variants.",
    ),
]


PageOption = Annotated[
    Path | None,
    typer.Option(
        "--page",
        metavar="FILE",
        help="Also write the comparison as a web page: charts of scores, bytes and times, and loss curves.",
    ),
]


def compare(groups: GroupsArgument, page: PageOption = None, as_json: JsonFlag = False) -> None:
    """Compare groups of runs: means, spread and tests, settings that differ, and what each part touched.

    The first group is what the others are compared with. Scores on different validation text are shown and not tested.
    """
    start_work()
    from bitgolf.commands.compare_runs import compare_runs, comparison_lines

    comparison = compare_runs(groups, page)
    print_result(as_json, comparison, comparison_lines(comparison))


RecordFolders = Annotated[
    list[Path], typer.Argument(metavar="FOLDER…", help="Record folders, or folders that contain some at any depth.")
]
ImportOut = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the run folders are written.")]


def import_logs(folders: RecordFolders, out: ImportOut = Path("runs"), as_json: JsonFlag = False) -> None:
    """Import the logs of record folders as runs, which `runs` lists and `compare` compares like one's own.

    Scores by stage, sizes, times, seed and data are read from logs of any author. Nothing in a folder is run.
    """
    start_work()
    from bitgolf.commands.import_logs import import_folders, import_lines

    result = import_folders(folders, out, current_display().progress)
    current_display().end_progress()
    print_result(as_json, result, import_lines(result))
    if not result.imported:
        raise typer.Exit(1)
