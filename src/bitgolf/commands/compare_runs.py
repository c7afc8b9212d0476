"""The command `compare`: groups of runs side by side, what differs between their recipes, and what each part touched."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import msgspec

from bitgolf.commands.compare import SettingDifference, compare_recipes
from bitgolf.commands.tables import table
from bitgolf.config.recipe_file import read_recipe
from bitgolf.errors import UsageError
from bitgolf.files import read_json
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.significance.mean_tests import Significance, welch
from bitgolf.store.entry import RunEntry, is_run, read_entry

MEASURES = ("bytes", "params", "tokens", "steps", "training_seconds")


class MeasureSummary(msgspec.Struct, frozen=True):
    """Mean and sample standard deviation of a measure over the runs of a group that have it; None for one run."""

    mean: float
    deviation: float | None
    runs: int


class RunGroup(msgspec.Struct, frozen=True):
    """Runs that differ by their seed, or that a user put together.

    measures: name -> summary; scores are named by stage or method, with the prefix `bpb `. test: of the best scores
    against those of the first group; None for the first, for single runs, and on other validation text.
    """

    name: str
    runs: list[RunEntry]
    measures: dict[str, MeasureSummary]
    test: Significance | None


class UsageDifference(msgspec.Struct, frozen=True):
    """A part that groups use differently. counts: parameters and calls by group, "-" where it is absent."""

    part: str
    counts: list[str]


class Comparison(msgspec.Struct, frozen=True):
    """The keys of `compare --json`. settings: what differs between the recipes of the first group and each other."""

    groups: list[RunGroup]
    settings: list[list[SettingDifference]]
    usage: list[UsageDifference]
    notes: list[str]


def compare_runs(arguments: Sequence[str]) -> Comparison:
    """Compare groups of runs: each argument is a folder, a pattern, or several of them separated by commas."""
    found = {argument: _folders(argument) for argument in arguments}
    entries = {argument: [read_entry(f, str(f)) for f in folders] for argument, folders in found.items()}
    first = next(iter(entries.values()))
    groups, notes = list[RunGroup](), list[str]()
    for argument, runs in entries.items():
        notes += _text_notes(argument, runs, first)
        test = _test(runs, first) if runs is not first else None
        groups.append(RunGroup(argument, runs, _measures(runs), test))
    folders = [folders[0] for folders in found.values()]
    return Comparison(groups, _settings(folders), _usage(folders), notes)


def _folders(argument: str) -> list[Path]:
    matches = (sorted(glob(pattern)) or [pattern] for pattern in argument.split(","))  # noqa: PTH207 (absolute patterns)
    folders = [Path(name) for names in matches for name in names]
    for folder in folders:
        if not is_run(folder):
            raise UsageError("there is no run in this folder", where=str(folder), hint="`bitgolf runs` lists them")
    return folders


def _measures(runs: Sequence[RunEntry]) -> dict[str, MeasureSummary]:
    stages = dict.fromkeys(stage for run in runs for stage in run.bpb)
    values = {f"bpb {stage}": [run.bpb[stage] for run in runs if stage in run.bpb] for stage in stages}
    values |= {name: [v for run in runs if (v := getattr(run, name)) is not None] for name in MEASURES}
    return {name: _summary(found) for name, found in values.items() if found}


def _summary(values: Sequence[float]) -> MeasureSummary:
    return MeasureSummary(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def _text_notes(argument: str, runs: Sequence[RunEntry], first: Sequence[RunEntry]) -> list[str]:
    """Say where scores are not comparable: other validation text, or none that is known."""
    texts = {run.text for run in runs}
    if "" in texts:
        return [f"{argument}: the validation text of some run is not known, so its scores are not compared"]
    if texts != {first[0].text}:
        return [f"{argument}: scored on other validation text than the first group, so its scores are not compared"]
    return []


def _test(runs: Sequence[RunEntry], first: Sequence[RunEntry]) -> Significance | None:
    """Welch's test of the best scores against those of the first group, where both have a spread and the same text."""
    texts = {run.text for run in (*runs, *first)}
    new, old = ([run.best_bpb for run in group if run.best_bpb is not None] for group in (runs, first))
    if len(texts) != 1 or "" in texts or min(len(new), len(old)) < 2 or len(set(new)) == len(set(old)) == 1:
        return None
    return welch(new, old)


def _settings(folders: Sequence[Path]) -> list[list[SettingDifference]]:
    """Return how the recipe of each group but the first differs from that of the first; nothing for imported runs."""
    recipes = [read_recipe(f) if (f := RunFiles(folder).recipe).exists() else None for folder in folders]
    first = recipes[0]
    return [compare_recipes(first, other) if first and other else [] for other in recipes[1:]]


def _usage(folders: Sequence[Path]) -> list[UsageDifference]:
    tables = [_usage_of(folder) for folder in folders]
    parts = dict.fromkeys(part for usage in tables for part in usage)
    rows = [UsageDifference(part, [usage.get(part, "-") for usage in tables]) for part in parts]
    return [row for row in rows if len(set(row.counts)) > 1]


def _usage_of(folder: Path) -> dict[str, str]:
    """Return part -> parameters and calls, as a run's result has them."""
    path = RunFiles(folder).result
    rows: list[dict[str, Any]] = read_json(path)["part_usage"] if path.exists() else []
    return {str(row["part"]): f"{row['parameters']:,} parameters, {row['calls']:,} calls" for row in rows}


def comparison_lines(result: Comparison) -> str:
    """Return the comparison as text."""
    names = [f"{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[i % 26]}" for i in range(len(result.groups))]
    lines = [f"{name}: {group.name} ({len(group.runs)} runs)" for name, group in zip(names, result.groups, strict=True)]
    measures = dict.fromkeys(measure for group in result.groups for measure in group.measures)
    rows = [(m, *(_cell(m, group.measures.get(m)) for group in result.groups)) for m in measures]
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
    return "\n".join([*lines, *(f"note: {note}" for note in result.notes)])


def _cell(name: str, summary: MeasureSummary | None) -> str:
    if summary is None:
        return "-"
    form = ".5f" if name.startswith("bpb") else ",.1f" if name == "training_seconds" else ",.0f"
    spread = "" if summary.deviation is None else f" ± {summary.deviation:{form}}"
    return f"{summary.mean:{form}}{spread}"


def _value(value: Any) -> str:
    return "-" if value is msgspec.UNSET else str(value)
