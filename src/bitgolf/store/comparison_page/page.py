"""The page of a comparison: groups at a glance, charts, and the tables of all that differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from bitgolf.config.readable import readable
from bitgolf.recipes.differences import SettingDifference
from bitgolf.report.web_page import (
    bullets,
    chart_grid,
    escape,
    folded,
    legend,
    paragraph,
    section,
    table,
    web_page,
)
from bitgolf.store.comparison import Comparison, RunGroup, group_letter, measure_text
from bitgolf.store.comparison_page.charts import SHOWN_RUNS, loss_charts, score_charts, scored_by_text
from bitgolf.store.comparison_page.loss_curves import loss_curves
from bitgolf.store.entry import RunEntry

OPEN_DIFFERENCES = 3
"""Groups up to which tables of settings are shown open."""


def comparison_page(comparison: Comparison, title: str = "Comparison of runs") -> str:
    """The HTML page of a comparison, for example of the variants of a sweep. title: its heading."""
    groups = comparison.groups
    count = sum(len(group.runs) for group in groups)
    head = f"{count:,} run{'s' * (count != 1)} in {len(groups):,} group{'s' * (len(groups) != 1)}"
    names = [f"{group_letter(i)}: {group.name} ({len(group.runs):,})" for i, group in enumerate(groups)]
    body = (
        f"<header>\n<h1>{escape(title)}</h1>\n<p class=subtitle>{escape(head)}</p>\n{legend(names)}</header>\n"
        f"{section('Groups', _groups_table(groups) + bullets(comparison.notes))}"
        f"{_charts(groups)}"
        f"{section('Settings that differ', _settings(comparison))}"
        f"{section('What parts touched', _usage(comparison))}"
        f"{section('Measures', _measures(groups))}"
        f"{section('Runs', _runs(groups))}"
    )
    return web_page(f"bitgolf: {title}", body)


def _groups_table(groups: Sequence[RunGroup]) -> str:
    columns = ("group", "runs", "bits per byte", "standard deviation", "against A", "p", "bytes", "training s")
    rows = [(f"{group_letter(i)} {group.name}", *_group_cells(group, groups[0])) for i, group in enumerate(groups)]
    note = (
        "Best score of the packed weights, mean over the runs of a group. Against A: difference of the means. p: chance of"
        " such a difference if the group were no better than A (Welch's t test, one-sided)."
    )
    return table(columns, rows) + paragraph(note)


def _group_cells(group: RunGroup, first: RunGroup) -> tuple[str, ...]:
    best, bytes_, seconds = group.best, group.measures.get("bytes"), group.measures.get("training_seconds")
    same_text = {run.text for run in group.runs} == {run.text for run in first.runs} != {""}
    against = f"{best.mean - first.best.mean:+.5f}" if best and first.best and same_text and group is not first else ""
    return (
        f"{len(group.runs):,}",
        f"{best.mean:.5f}" if best else "",
        f"{best.deviation:.5f}" if best and best.deviation is not None else "",
        against,
        f"{group.test.p:.2g}" if group.test else "",
        f"{bytes_.mean:,.0f}" if bytes_ else "",
        f"{seconds.mean:,.1f}" if seconds else "",
    )


def _charts(groups: Sequence[RunGroup]) -> str:
    """Sections of charts: one for each validation text, and one for each set of training data."""
    scored, curves = scored_by_text(groups), loss_curves(groups)
    sections = [
        section(_numbered("Scores", "validation text", i, scored) + f": {text}" * (len(scored) > 1), chart_grid(cards))
        for i, (text, runs) in enumerate(scored.items())
        if (cards := score_charts(f"scores{i}", runs, groups))
    ]
    sections += [
        section(_numbered("Training", "data", i, curves), chart_grid(loss_charts(f"losses{i}", found)))
        for i, found in enumerate(curves.values())
    ]
    return "".join(sections)


def _numbered(title: str, what: str, i: int, found: Mapping[str, object]) -> str:
    """A title with the number of the text or data if there are several."""
    return title if len(found) == 1 else f"{title}, {what} {i + 1} of {len(found)}"


def _settings(comparison: Comparison) -> str:
    groups, shown = comparison.groups[1:], []
    for i, (group, rows) in enumerate(zip(groups, comparison.settings, strict=True), start=1):
        summary = f"{group_letter(i)} against A: {len(rows):,} settings ({group.name})"
        if rows:
            found = _settings_table(rows, group_letter(i))
            shown.append(found if len(groups) <= OPEN_DIFFERENCES else folded(summary, found))
    return "".join(shown)


def _settings_table(rows: Sequence[SettingDifference], letter: str) -> str:
    return table(("setting", "A", letter), [(row.path, _value(row.a), _value(row.b)) for row in rows], text_columns=3)


def _value(value: object) -> str:
    return "(absent)" if value is msgspec.UNSET else readable(value)


def _usage(comparison: Comparison) -> str:
    letters = [group_letter(i) for i in range(len(comparison.groups))]
    cells = [(row.part, *row.counts) for row in comparison.usage]
    return table(("part", *letters), cells, text_columns=1 + len(letters)) if cells else ""


def _measures(groups: Sequence[RunGroup]) -> str:
    names = dict.fromkeys(name for group in groups for name in group.measures)
    rows = [(name, *(measure_text(name, group.measures.get(name)) for group in groups)) for name in names]
    columns = ("measure", *(group_letter(i) for i in range(len(groups))))
    return folded("Mean ± standard deviation of all measures", table(columns, rows)) if rows else ""


def _runs(groups: Sequence[RunGroup]) -> str:
    runs = [(run, group_letter(i)) for i, group in enumerate(groups) for run in group.runs]
    columns = ("run", "group", "recipe", "state", "seed", "bits per byte", "bytes", "training s", "steps")
    shown = table(columns, [_run_cells(run, letter) for run, letter in runs[:SHOWN_RUNS]], text_columns=4)
    more = len(runs) - SHOWN_RUNS
    title = f"All {len(runs):,} runs" if more <= 0 else f"The first {SHOWN_RUNS:,} of {len(runs):,} runs"
    return folded(title, shown)


def _run_cells(run: RunEntry, letter: str) -> tuple[str, ...]:
    numbers = (run.seed, run.bytes, run.steps)
    seed, size, steps = ("" if value is None else f"{value:,}" for value in numbers)
    bpb = "" if run.best_bpb is None else f"{run.best_bpb:.5f}"
    seconds = "" if run.training_seconds is None else f"{run.training_seconds:,.1f}"
    return run.folder, letter, run.recipe, run.state, seed, bpb, size, seconds, steps
