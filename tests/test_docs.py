"""docs/techniques.md agrees with the code: its parts and recipes exist, its assignments work, no published part is missing."""

from __future__ import annotations

import ast
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from bitgolf.config.build_context import BuildContext
from bitgolf.config.parse import apply_assignment
from bitgolf.config.registry import import_all_parts, lookup
from bitgolf.config.rules import assign_to_rules
from bitgolf.config.spec import Spec, schema
from bitgolf.model.build import build_on_meta, model_size
from bitgolf.model.lm import LM
from bitgolf.model.parameters import parameter_roles
from bitgolf.quantize.calibration.calibrate import check_calibration
from bitgolf.recipes import get_recipe, recipe_names
from bitgolf.training.loss_module import LossModule
from bitgolf.training.settings import Train

TEXT = (Path(__file__).parents[1] / "docs" / "techniques.md").read_text()
COLUMNS = ["technique", "assignment", "recipes", "published effect", "interacts badly with"]
TABLES = [
    [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line.startswith("| ")]
    for block in TEXT.split("\n\n")
]
ENTRIES = [row for table in TABLES if table and table[0] == COLUMNS for row in table[2:]]
ASSIGNMENT = re.compile(r"([a-z]\w*(?:\.\w+)*)=(.+)")


def code_spans(text: str) -> list[str]:
    """The code spans of a text that name parts; of an assignment, its value."""
    values = [match[2] if (match := ASSIGNMENT.fullmatch(span)) else span for span in re.findall(r"`([^`]+)`", text)]
    return [value for value in values if re.match(r"\(*[A-Z]", value)]


def parts(text: str) -> set[str]:
    """The names of parts in all code spans of a text."""
    trees = [ast.parse(span, mode="eval") for span in code_spans(text)]
    return {n.id for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id[0].isupper()}


class Call(NamedTuple):
    """A part as it is written: its class, and those of its arguments that are plain values."""

    name: str
    values: dict[str, Any]

    def is_in(self, nodes: list[Spec[Any]]) -> bool:
        return any(n.name == self.name and self.values.items() <= n.kwargs.items() for n in nodes)


def calls(tree: ast.AST) -> list[Call]:
    """The parts that an expression names."""
    written = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    plain = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id[0].isupper()}
    return [Call(ast.unparse(n.func), literals(n)) for n in written] + [Call(name, {}) for name in plain]


def literals(call: ast.Call) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for keyword in call.keywords:
        with suppress(ValueError):
            found[str(keyword.arg)] = ast.literal_eval(keyword.value)
    return {key: None if isinstance(value, str) and value == "none" else value for key, value in found.items()}


@cache
def base_recipe(cell: str) -> Spec[Any]:
    """The recipe that a cell of assignments applies to: the one it names first, or `baseline`."""
    named = re.match(r"on `(\w+)`: ", cell)
    return get_recipe(named[1] if named else "baseline")


def assignments(cell: str) -> list[str]:
    found = [span for span in re.findall(r"`([^`]+)`", cell) if ASSIGNMENT.fullmatch(span)]
    shown = re.sub(r"^on `\w+`: ", "", cell)
    assert found and shown == ", ".join(f"`{span}`" for span in found), "nothing else may stand in the cell"
    return found


def nodes_of(recipe: Spec[Any]) -> list[Spec[Any]]:
    return [node for _, node in recipe.walk()]


@cache
def nodes_of_recipe(name: str) -> list[Spec[Any]]:
    return nodes_of(get_recipe(name))


@cache
def edited_recipe(cell: str) -> Spec[Any]:
    """The recipe after all assignments of a cell, each of which must change it."""
    recipe = base_recipe(cell)
    for assignment in assignments(cell):
        before, recipe = recipe, apply_assignment(recipe, assignment)
        assert recipe != before, f"{assignment} changes nothing"
    return recipe


@cache
def added(cell: str) -> list[Call]:
    """The parts that a cell's assignments add: of a chain, those that were not in it; of a plain value, the part it is set on."""
    found: list[Call] = []
    for assignment in assignments(cell):
        path, value = assignment.split("=", 1)
        before, after = base_recipe(cell)[path], edited_recipe(cell)[path]
        if not isinstance(after, Spec | tuple):
            parent = edited_recipe(cell)[path.rpartition(".")[0]]
            found.append(Call(parent.name, {path.rpartition(".")[2]: after}))
            continue
        tree = ast.parse(value, mode="eval").body
        items = (
            list(zip(tree.elts, after, strict=True))
            if isinstance(tree, ast.Tuple) and isinstance(after, tuple)
            else [(tree, after)]
        )
        old = before if isinstance(before, tuple) else (before,)
        new = [written for written, item in items if item not in old] or [written for written, _ in items]
        found += [call for written in new for call in calls(written)]
    return found


@cache
def build_training(model: Spec[LM], settings: Spec[Train], vocab: int) -> dict[str, str]:
    """Build the model and its loss on the meta device, and apply the optimizer's rules. Returns parameter roles by path."""
    built, size = build_on_meta(model, vocab), model_size(model)
    with torch.device("meta"):
        train = settings()
        task = LossModule(built, train.objective(BuildContext(vocab=vocab, dim=size.dim)))
    assign_to_rules(train.optim, task.roles(), where="train.optim")
    return parameter_roles(built)


def build_everything(recipe: Spec[Any]) -> None:
    """Build every stage of a recipe. Raises `RecipeError` for what a run would refuse, such as a parameter without a rule."""
    settings = recipe()
    check_calibration(settings.quantize, settings.calibrate)
    roles = build_training(settings.model, settings.train, settings.tokens().vocab)
    assign_to_rules(settings.quantize, roles, where="quantize")
    for node in (*settings.score, settings.pack, settings.average, settings.calibrate):
        if node is not None:
            node()
    for rule in (*settings.quantize, *settings.train().optim):
        rule().use()


@pytest.mark.parametrize("span", sorted(set(code_spans(TEXT))))
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


@pytest.mark.parametrize("row", ENTRIES, ids=lambda row: row[0])
def test_the_assignments_of_a_row_apply(row: list[str]) -> None:
    """They change the recipe, the new recipe has the parts that they name, and all of it can be built."""
    recipe = edited_recipe(row[1])
    assert added(row[1]) and all(call.is_in(nodes_of(recipe)) for call in added(row[1]))
    build_everything(recipe)


@pytest.mark.parametrize("row", ENTRIES, ids=lambda row: row[0])
def test_the_recipes_of_a_row_use_its_parts(row: list[str]) -> None:
    technique, cell, recipes, _, _ = row
    named = re.findall(r"`(\w+)`", recipes)
    shown_with = {"Only"} if "here limited to" in technique else set[str]()  # where every recipe has the part
    assert bool(named) != (recipes == "–"), "recipes that use the part, or a dash"
    for name in named:
        assert {call.name for call in added(cell)} - shown_with <= {node.name for node in nodes_of_recipe(name)}, name
    if not named:
        assert not any(all(call.is_in(nodes_of_recipe(name)) for call in added(cell)) for name in recipe_names())


def test_every_table_of_techniques_is_checked() -> None:
    assert len(ENTRIES) > 120 and all(len(row) == 5 for row in ENTRIES)
    assert [table[0] for table in TABLES if table and table[0] != COLUMNS] == [
        ["fused kernel", "replaces", "published effect"],
        ["technique", "published", "as trained", "after int6", "parameters"],
    ]


def test_there_is_a_place_for_what_is_measured_here() -> None:
    heading, _, rest = TEXT.partition("## Measured here\n")
    assert heading and "\n## " not in rest
