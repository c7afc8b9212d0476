"""`bitgolf runs --group`: runs that differ by their seed, as one row with mean and spread."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

import msgspec

from bitgolf.commands.tables import table
from bitgolf.store.entry import RunEntry


class RecipeGroup(msgspec.Struct, frozen=True):
    """Runs in one folder that differ by their seed. folder: their common name, relative to the store.

    hash: of the recipe. seeds: of the runs that were scored. mean, deviation: of their best scores; deviation is the
    sample standard deviation, None for a single one. bytes: of the largest artifact.
    """

    folder: str
    recipe: str
    hash: str
    seeds: list[int]
    mean: float | None
    deviation: float | None
    bytes: int | None


class GroupedRuns(msgspec.Struct, frozen=True):
    """The keys of `runs --group --json`. groups: the finished runs by folder and recipe, from the best to the worst."""

    root: str
    groups: list[RecipeGroup]


def group_runs(root: str, runs: Sequence[RunEntry]) -> GroupedRuns:
    """Group the runs below a folder."""
    found = dict[tuple[str, str], list[RunEntry]]()
    for entry in runs:
        if entry.hash:
            found.setdefault((entry.folder.rpartition("/")[0], entry.hash), []).append(entry)
    groups = [_group(entries) for entries in found.values()]
    return GroupedRuns(root, sorted(groups, key=lambda group: (group.mean is None, group.mean or 0.0)))


def _group(entries: Sequence[RunEntry]) -> RecipeGroup:
    scored = [entry for entry in entries if entry.best_bpb is not None]
    scores = [entry.best_bpb for entry in scored if entry.best_bpb is not None]
    return RecipeGroup(
        entries[0].folder.rpartition("-s")[0] or entries[0].folder,
        entries[0].recipe,
        entries[0].hash,
        [entry.seed for entry in scored if entry.seed is not None],
        fmean(scores) if scores else None,
        stdev(scores) if len(scores) > 1 else None,
        max((entry.bytes for entry in entries if entry.bytes is not None), default=None),
    )


def groups_table(grouped: GroupedRuns) -> str:
    """Return the groups as a table."""
    groups, root = grouped.groups, grouped.root
    rows = [
        (
            group.folder,
            group.recipe,
            "-" if group.mean is None else f"{group.mean:.5f}",
            "-" if group.deviation is None else f"{group.deviation:.5f}",
            str(len(group.seeds)),
            "-" if group.bytes is None else f"{group.bytes:,}",
        )
        for group in groups
    ]
    title = f"{len(rows):,} recipes in {root}: bits per byte, mean and standard deviation over seeds"
    columns = ("runs", "recipe", "bpb", "±", "seeds", "bytes")
    return table(title, columns, rows, text_columns=2) if rows else f"no finished runs in {root}"
