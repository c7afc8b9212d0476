"""The command `compare`: groups of runs side by side, as text or as a page."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

import msgspec

from bitgolf.commands.tables import table
from bitgolf.errors import UsageError
from bitgolf.files import write_bytes
from bitgolf.report.page_file import check_replaceable
from bitgolf.report.quiet_matplotlib import quiet_matplotlib
from bitgolf.store.comparison import Comparison, compare_groups, group_letter, measure_text
from bitgolf.store.entry import is_run
from bitgolf.store.index import run_folders
from bitgolf.sweeps.folder import sweep_name, variant_groups


def compare_runs(arguments: Sequence[str], page: Path | None = None) -> Comparison:
    """Compare groups of runs: each argument is a folder, a pattern, or several of them separated by commas.

    The folder of a sweep stands for a group for each of its variants, another folder without a run for all runs below it,
    and a pattern for those that it matches.

    page: where the comparison is written as a web page, None for nowhere. Raises `UsageError` if a folder has no run,
    and if `page` is a file that is no page.
    """
    groups = dict[str, list[Path]]()
    for argument in arguments:
        groups |= variant_groups(Path(argument)) or {argument: _folders(argument)}
    if page:
        check_replaceable(page)
    comparison = compare_groups(groups)
    if page is None:
        return comparison
    with quiet_matplotlib():
        from bitgolf.store.comparison_page.page import comparison_page
    name = sweep_name(Path(arguments[0])) if len(arguments) == 1 else ""
    write_bytes(page, comparison_page(comparison, f"Sweep {name}" if name else "Comparison of runs").encode())
    return msgspec.structs.replace(comparison, page=str(page))


def _folders(argument: str) -> list[Path]:
    """Return the folders of the runs that an argument stands for. Raises `UsageError` for a name without any."""
    folders = list[Path]()
    for name in argument.split(","):
        matches = [Path(match) for match in sorted(glob(name))] or [Path(name)]  # noqa: PTH207 (absolute patterns)
        found = [run for folder in matches for run in ([folder] if is_run(folder) else run_folders(folder))]
        if not found:
            raise UsageError("there is no run in this folder", where=name, hint="`bitgolf runs` lists them")
        folders += found
    return list(dict.fromkeys(folders))


def comparison_lines(result: Comparison) -> str:
    """Return the comparison as text."""
    names = [group_letter(i) for i in range(len(result.groups))]
    lines = [f"{name}: {group.name} ({len(group.runs)} runs)" for name, group in zip(names, result.groups, strict=True)]
    measures = dict.fromkeys(measure for group in result.groups for measure in group.measures)
    rows = [(m, *(measure_text(m, group.measures.get(m)) for group in result.groups)) for m in measures]
    lines += ["", table("Mean ± standard deviation", ("", *names), rows)]
    for name, group, settings in zip(names[1:], result.groups[1:], result.settings, strict=True):
        if group.test:
            test = group.test
            lines += [f"{name} against A: {-test.improvement:+.5f} bpb, p = {test.p:.2g} that it is not better (Welch)"]
        if settings:
            cells = [(row.path, _value(row.a), _value(row.b)) for row in settings]
            lines += ["", table(f"Settings of {name} against A", ("setting", "A", name), cells, text_columns=3)]
    if result.usage:
        cells = [(row.part, *row.counts) for row in result.usage]
        lines += ["", table("What parts touched", ("part", *names), cells, text_columns=1 + len(names))]
    written = [f"page: {result.page}"] if result.page else []
    return "\n".join([*lines, *(f"note: {note}" for note in result.notes), *written])


def _value(value: Any) -> str:
    return "-" if value is msgspec.UNSET else str(value)
