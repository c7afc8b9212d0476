"""The catalogue of techniques cannot rot: it names parts that exist, recipes that use them, and all that was published."""

from __future__ import annotations

import ast
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bitgolf.config.registry import import_all_parts, lookup
from bitgolf.config.spec import Spec, schema
from bitgolf.recipes import get_recipe, recipe_names

TEXT = (Path(__file__).parents[1] / "docs" / "techniques.md").read_text()
SPANS = sorted({span for span in re.findall(r"`([^`]+)`", TEXT) if span[0].isupper()})
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| ")]
ENTRIES = [row for row in ROWS if len(row) == 5 and row[0] != "technique" and not row[0].startswith("---")]


def parts(text: str) -> set[str]:
    """The names of parts in all code spans of a text."""
    spans = [span for span in re.findall(r"`([^`]+)`", text) if span[0].isupper()]
    trees = [ast.parse(span, mode="eval") for span in spans]
    return {n.id for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id[0].isupper()}


@pytest.mark.parametrize("span", SPANS)
def test_a_part_exists_and_takes_what_is_said(span: str) -> None:
    for node in ast.walk(ast.parse(span, mode="eval")):
        if isinstance(node, ast.Name) and node.id[0].isupper():
            lookup(node.id)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert {k.arg for k in node.keywords} <= schema(lookup(node.func.id)).keys() and not node.args


def test_every_part_of_a_published_system_is_named() -> None:
    packages = {"model", "optim", "average", "data", "score", "tokens"}
    registered = {cls for cls in import_all_parts().values() if cls.__module__.split(".")[1] in packages}
    published = [get_recipe(name) for name in recipe_names() if get_recipe(name)().published]
    used = {node.cls for recipe in published for _, node in recipe.walk()} & registered
    assert len(used) > 50 and {cls.__name__ for cls in used} - parts(TEXT) == set()


def literals(call: ast.Call) -> dict[str, Any]:
    """The arguments of a part that are plain values."""
    found: dict[str, Any] = {}
    for keyword in call.keywords:
        with suppress(ValueError):
            found[str(keyword.arg)] = ast.literal_eval(keyword.value)
    return found


def is_in(recipe: Spec[Any], text: str) -> bool:
    """Whether a recipe has every part that is named in the code spans of a text, with the plain values that are said."""
    nodes = [node for _, node in recipe.walk()]
    trees = [ast.parse(span, mode="eval") for span in re.findall(r"`([^`]+)`", text) if span[0].isupper()]
    calls = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Call)]
    said = [(ast.unparse(call.func), literals(call)) for call in calls] + [(name, {}) for name in parts(text)]
    return all(any(n.name == name and values.items() <= n.kwargs.items() for n in nodes) for name, values in said)


def test_the_recipes_of_a_row_use_its_parts() -> None:
    used = {name: {node.name for _, node in get_recipe(name).walk()} for name in recipe_names()}
    assert len(ENTRIES) > 80
    for _, written, recipes, _, _ in ENTRIES:
        named = re.findall(r"`(\w+)`", recipes)
        assert all(parts(written) <= used[name] for name in named), written
        if recipes == "–":
            assert not any(is_in(get_recipe(name), written) for name in recipe_names()), written


def test_there_is_a_place_for_what_is_measured_here() -> None:
    heading, _, rest = TEXT.partition("## Measured here\n")
    assert heading and "\n## " not in rest
