"""Tables of recipes for a terminal: `recipes` and `diff`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bitgolf.commands.tables import table
from bitgolf.config.readable import readable

if TYPE_CHECKING:
    from bitgolf.recipes.differences import SettingDifference


Published = Mapping[str, tuple[str, float] | None]
"""Recipe -> stage and bits per byte, None if nothing was published."""


def recipes_table(descriptions: Mapping[str, str], published: Published) -> str:
    """The result of `recipes`: a row for each recipe. descriptions: recipe -> its first line."""
    title = "Recipes, with the bits per byte (bpb) and the stage that their authors reported"
    return _results_table(title, descriptions, published)


def experiments_table(descriptions: Mapping[str, str], published: Published) -> str:
    """The second result of `recipes`: a row for each experiment. descriptions: experiment -> its first line."""
    title = "Experiments of the branch of pull request 1512, each a variant of a recipe above"
    return _results_table(title, descriptions, published)


def sweeps_table(descriptions: Mapping[str, str]) -> str:
    """The result of `sweep --list`: a row for each sweep. descriptions: sweep -> the first line of its docstring."""
    rows = list(descriptions.items())
    return table("Sweeps of this package", ("sweep", "what it is"), rows, text_columns=2)


def _results_table(title: str, descriptions: Mapping[str, str], published: Published) -> str:
    rows = []
    for name, line in descriptions.items():
        stage, bpb = published[name] or ("", None)
        rows.append((name, "-" if bpb is None else f"{bpb:.4f} {stage}", line))
    return table(title, ("recipe", "published bpb", "what it is"), rows, text_columns=3)


def diff_table(rows: Sequence[SettingDifference], a: str, b: str) -> str:
    """The result of `diff`: a row for each setting. a, b: the recipes, as they were named."""
    if not rows:
        return "no differences"
    cells = [(row.path, _cell(row.a), _cell(row.b)) for row in rows]
    return table("Differences", ("path", a, b), cells, text_columns=3)


def _cell(value: Any) -> str:
    from msgspec import UNSET

    return "(absent)" if value is UNSET else readable(value)
