"""Recipes of code files and of plugins: how they are named, and what is no recipe."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bitgolf.config.code_files import load_code
from bitgolf.errors import BitgolfError, RecipeError, UsageError
from bitgolf.recipes import get_recipe, load_recipe
from bitgolf.recipes.foreign import split_code_recipe
from bitgolf.recipes.identity import recipe_hash
from helpers.own_code import OWN_PARTS, install, own_code_removed, remove_own_code, write_code

__all__ = ["own_code_removed"]

RECIPES = """
from bitgolf.recipes import get_recipe

ready = get_recipe("quickstart").replace(name="ready")
number = 3

def my_recipes():
    return ready.replace(name="by_file")

def fails():
    raise ValueError("no idea")

def wrong():
    return number

def unknown():
    return ready.set("model.nothing", 1)
"""


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("a.py:b", (Path("a.py"), "b")),
        ("x/a.py", (Path("x/a.py"), "a")),
        ("C:/x/a.py:b", (Path("C:/x/a.py"), "b")),
        ("a.py:", (Path("a.py"), "")),
        ("a", None),
        ("a.json", None),
        ("a.pyc", None),
    ],
)
def test_what_an_argument_names(argument: str, found: tuple[Path, str] | None) -> None:
    assert split_code_recipe(argument) == found


def test_a_recipe_is_a_value_or_a_function(tmp_path: Path) -> None:
    path = write_code(tmp_path, "my_recipes.py", RECIPES)
    assert load_recipe(f"{path}:ready", ["train.seconds=3"])["train.seconds"] == 3
    assert load_recipe(str(path), [])["name"] == "by_file", "the one with the name of the file"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nothing", UsageError, "no recipe named 'nothing'"),
        ("number", UsageError, "number is not a recipe"),
        ("wrong", UsageError, "wrong is not a recipe, or a function that returns one, but 3"),
        ("fails", UsageError, "the recipe fails fails with ValueError: no idea"),
        ("unknown", RecipeError, "there is no path 'model.nothing'"),
    ],
)
def test_what_is_no_recipe(tmp_path: Path, name: str, error: type[BitgolfError], message: str) -> None:
    path = write_code(tmp_path, "my_recipes.py", RECIPES)
    with pytest.raises(error, match=message) as caught:
        load_recipe(f"{path}:{name}", [])
    if name == "nothing":
        assert "it has ready, my_recipes, fails, wrong, unknown" in caught.value.hint


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_recipe(f"{tmp_path}/my_recipes.py:ready", [])


def test_recipes_of_plugins(tmp_path: Path) -> None:
    entries = {
        "ready": "bitgolf_r:ready",
        "baseline": "bitgolf_r:ready",
        "gone": "bitgolf_r:gone",
        "odd": "bitgolf_none:x",
    }
    install(tmp_path, "bitgolf-r", "2", entries, {"bitgolf_r": RECIPES})
    assert get_recipe("ready")["name"] == "ready"
    assert get_recipe("baseline")["name"] == "baseline", "the package's own come first"
    with pytest.raises(UsageError, match="no recipe named 'gone'") as missing:
        get_recipe("gone")
    assert "bitgolf_r of bitgolf-r 2" in missing.value.where
    with pytest.raises(BitgolfError, match="plugin 'odd' of bitgolf-r 2 cannot be imported"):
        get_recipe("odd")
    with pytest.raises(UsageError, match="no recipe named 'readi'") as near:
        get_recipe("readi")
    assert "did you mean 'ready'" in near.value.hint


def test_the_hash_has_the_contents_of_the_file(tmp_path: Path) -> None:
    def hash_with(parts: str) -> str:
        write_code(tmp_path, "my_parts.py", parts)
        sets = ["model.block.mlp.act=CubedReLU"]
        load_code([tmp_path / "my_parts.py"])
        found = recipe_hash(load_recipe("quickstart", sets))
        remove_own_code()
        return found

    assert hash_with(OWN_PARTS) == hash_with(OWN_PARTS) != hash_with(OWN_PARTS + "\n")
    assert "my_parts" not in sys.modules
