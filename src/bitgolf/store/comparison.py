"""Groups of runs side by side: means, spread and tests, what differs between their recipes, and what each part touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import msgspec

from bitgolf.config.recipe_file import read_recipe
from bitgolf.errors import BitgolfError
from bitgolf.files import read_json
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.recipes.differences import SettingDifference, compare_recipes
from bitgolf.significance.mean_tests import Significance, welch
from bitgolf.store.entry import RunEntry, read_entry

MEASURES = ("bytes", "code", "params", "tokens", "steps", "training_seconds")
Groups = Mapping[str, Sequence[Path]]
"""Name of a group -> folders of its runs, at least one."""


class MeasureSummary(msgspec.Struct, frozen=True):
    """Mean and sample standard deviation of a measure over the runs of a group that have it; None for one run."""

    mean: float
    deviation: float | None
    runs: int


class RunGroup(msgspec.Struct, frozen=True):
    """Runs that differ by their seed, or that a user put together.

    measures: name -> summary; scores are named by stage or method, with the prefix `bpb `. test: of the best scores
    against those of the first group; None for the first, for single runs, and on other validation text. best: summary
    of the best scores; None without a score, and if the runs have different validation texts.
    """

    name: str
    runs: list[RunEntry]
    measures: dict[str, MeasureSummary]
    test: Significance | None
    best: MeasureSummary | None = None


class UsageDifference(msgspec.Struct, frozen=True):
    """A part that groups use differently. counts: parameters and calls by group, "-" where it is absent."""

    part: str
    counts: list[str]


class Comparison(msgspec.Struct, frozen=True):
    """The keys of `compare --json`. settings: what differs between the recipes of the first group and each other.

    page: path of the page that was written, "" for none.
    """

    groups: list[RunGroup]
    settings: list[list[SettingDifference]]
    usage: list[UsageDifference]
    notes: list[str]
    page: str = ""


def compare_groups(groups: Groups) -> Comparison:
    """Compare groups of runs; the first is what the others are compared with. At least one group."""
    entries = {name: [read_entry(f, str(f)) for f in folders] for name, folders in groups.items()}
    first = next(iter(entries.values()))
    found, notes = list[RunGroup](), list[str]()
    for name, runs in entries.items():
        notes += _text_notes(name, runs, first)
        test = _test(runs, first) if runs is not first else None
        found.append(RunGroup(name, runs, _measures(runs), test, _best(runs)))
    folders = [folders[0] for folders in groups.values()]
    return Comparison(found, _settings(folders), _usage(folders), notes)


def group_letter(i: int) -> str:
    """A short name of the i-th group: A to Z, then AA, AB, …"""
    first, last = divmod(i, 26)
    return (group_letter(first - 1) if first else "") + chr(ord("A") + last)


def _measures(runs: Sequence[RunEntry]) -> dict[str, MeasureSummary]:
    stages = dict.fromkeys(stage for run in runs for stage in run.bpb)
    values = {f"bpb {stage}": [run.bpb[stage] for run in runs if stage in run.bpb] for stage in stages}
    values |= {name: [v for run in runs if (v := getattr(run, name)) is not None] for name in MEASURES}
    return {name: summary_of(found) for name, found in values.items() if found}


def _best(runs: Sequence[RunEntry]) -> MeasureSummary | None:
    found = [run.best_bpb for run in runs if run.best_bpb is not None]
    return summary_of(found) if found and len({run.text for run in runs}) == 1 else None


def summary_of(values: Sequence[float]) -> MeasureSummary:
    """Return mean and spread of one or more values."""
    return MeasureSummary(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def measure_text(name: str, summary: MeasureSummary | None) -> str:
    """Return a measure as `mean ± deviation`, "-" if there is none. name: of the measure, which decides the digits."""
    if summary is None:
        return "-"
    form = ".5f" if name.startswith("bpb") else ",.1f" if name == "training_seconds" else ",.0f"
    spread = "" if summary.deviation is None else f" ± {summary.deviation:{form}}"
    return f"{summary.mean:{form}}{spread}"


def _text_notes(name: str, runs: Sequence[RunEntry], first: Sequence[RunEntry]) -> list[str]:
    """Say where scores are not comparable: other validation text, or none that is known."""
    texts = {run.text for run in runs}
    if "" in texts:
        return [f"{name}: the validation text of some run is not known, so its scores are not compared"]
    if texts != {first[0].text}:
        return [f"{name}: scored on other validation text than the first group, so its scores are not compared"]
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
    """Return part -> parameters and calls, as a run's result has them; nothing if the result is missing or damaged."""
    try:
        rows: list[dict[str, Any]] = read_json(RunFiles(folder).result)["part_usage"]
        return {str(row["part"]): f"{row['parameters']:,} parameters, {row['calls']:,} calls" for row in rows}
    except (BitgolfError, OSError, LookupError, TypeError, ValueError):
        return {}
