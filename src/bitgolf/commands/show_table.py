"""The result of `show` as text."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from bitgolf.commands.tables import code_words, format_number, table
from bitgolf.report.text_table import Row

if TYPE_CHECKING:
    from bitgolf.commands.show import RecipeSummary


def show_table(summary: RecipeSummary) -> str:
    """The result of `show`: counts and forecasts, all settings, published results, and cautions."""
    expected = summary.forecast
    facts = [
        ("hash", summary.hash),
        ("parameters", format_number(summary.params)),
        ("layers", str(summary.layers)),
        ("vocabulary", f"{summary.vocab:,} tokens"),
        *((f"parameters of role {role}", format_number(n)) for role, n in summary.params_by_role.items()),
        ("forecast of the artifact without its tokenizer", f"{expected.bytes:,} bytes"),
        ("code", code_words(expected.code, expected.code_note, counted=expected.counted)),
        *([("forecast of artifact and code", f"{expected.total:,} bytes")] if expected.total > expected.bytes else []),
        ("cap", f"{expected.cap:,} bytes"),
        ("forecast of training memory without activations", f"{expected.training_state_bytes:,} bytes"),
    ]
    settings = [(setting.path, str(setting.value)) for setting in summary.settings]
    parts = table("Parts and settings", ("path", "value"), settings, text_columns=2)
    published = summary.published or {}
    cautions = "\n".join(f"caution: {caution}" for caution in summary.cautions)
    sections = [
        table(summary.name, ("", ""), facts, text_columns=2),
        parts,
        _published(published),
        _differences(published),
        cautions,
    ]
    return "\n\n".join(filter(None, sections))


def _published(published: dict[str, Any]) -> str:
    """Published results of a recipe, one line for each figure; "" if there are none."""
    rows: list[Row] = []
    for key, value in published.items():
        words = "bytes of code" if key == "code" else key.replace("_", " ")
        if isinstance(value, dict):
            rows += [(f"{words}, {name}", _words(v)) for name, v in value.items() if key != "departures"]
        elif value:
            rows.append((words, _words(value)))
    return table("Published by its authors, not measured here", ("", ""), rows, text_columns=2) if rows else ""


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(v)}" for name, v in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def _differences(published: dict[str, Any]) -> str:
    """Differences between a recipe and the published system, with the `--set` for each; "" if there are none."""
    departures = published.get("departures")
    if not isinstance(departures, dict) or not departures:
        return ""
    lines = ["Differences from the published system, and the --set options that remove each:"]
    for words, assignments in departures.items():
        sets = " ".join(f"--set {shlex.quote(assignment)}" for assignment in str(assignments).split())
        lines.append(f"  {words}: {sets or 'no option'}")
    return "\n".join(lines)
