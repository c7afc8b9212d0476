"""The settings in which two recipes differ."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from bitgolf.config.edits import ABSENT, diff
from bitgolf.config.readable import readable
from bitgolf.config.spec import Spec
from bitgolf.recipes.recipe import Recipe


class SettingDifference(msgspec.Struct, frozen=True):
    """A row of `diff --json`: a path, and its values in both recipes.

    A part or a chain is text, as `--set` takes it. The key of a recipe without the path is left out. path: that in the
    second recipe, or that in the first if the second has none.
    """

    path: str
    a: Any | UnsetType = UNSET
    b: Any | UnsetType = UNSET


def compare_recipes(a: Spec[Recipe], b: Spec[Recipe]) -> list[SettingDifference]:
    """The settings in which two recipes differ, in the order of the recipes. Published results are not compared."""
    rows = diff(a.replace(published=None), b.replace(published=None))
    return [SettingDifference(row.path, _plain(row.a), _plain(row.b)) for row in rows]


def _plain(value: Any) -> Any:
    """A value for JSON."""
    if value is ABSENT:
        return UNSET
    return readable(value) if isinstance(value, Spec | tuple) else value
