"""Plugins: parts and recipes of installed distributions, which are imported only if they are needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bitgolf.config.plugins import plugin_of_module, plugins
from bitgolf.config.registry import REGISTRY, lookup
from bitgolf.errors import RecipeError
from helpers.own_code import install, own_code_removed

__all__ = ["own_code_removed"]

PART = "from bitgolf.config.registry import register\n@register\nclass {name}:\n    pass\n"


def install_something(folder: Path, version: str = "1.2") -> None:
    modules = {"bitgolf_something": PART.format(name="SomePart")}
    install(folder, "bitgolf-something", version, {"something": "bitgolf_something"}, modules)


def test_a_part_of_a_plugin_is_found_by_its_name(tmp_path: Path) -> None:
    install_something(tmp_path)
    assert [str(plugin) for plugin in plugins()] == ["bitgolf-something 1.2"]
    assert "bitgolf_something" not in sys.modules
    assert lookup("SomePart").__module__ == "bitgolf_something"
    assert plugin_of_module("bitgolf_something") == plugins()[0] and plugin_of_module("json") is None


def test_names_of_the_package_import_no_plugin(tmp_path: Path) -> None:
    install_something(tmp_path)
    lookup("SquaredLeakyReLU")
    assert "bitgolf_something" not in sys.modules


def test_a_broken_plugin_matters_only_where_a_name_is_not_found(tmp_path: Path) -> None:
    install(
        tmp_path / "a", "bitgolf-broken", "0.1", {"a": "bitgolf_broken"}, {"bitgolf_broken": "import no_such_thing"}
    )
    install_something(tmp_path / "b")
    assert lookup("SomePart")
    with pytest.raises(RecipeError, match="no part called 'NoPart'") as error:
        lookup("NoPart")
    assert "the plugin 'a' of bitgolf-broken 0.1 cannot be imported (ModuleNotFoundError" in error.value.hint


@pytest.mark.parametrize("value", ["no_such_module", "", "not a module!", "bitgolf_ends", "a..b:"])
def test_an_entry_point_of_any_kind_is_no_more_than_a_failure(tmp_path: Path, value: str) -> None:
    install(tmp_path, "bitgolf-odd", "1", {"odd": value}, {"bitgolf_ends": "raise SystemExit"})
    with pytest.raises(RecipeError, match="no part called 'NoPart'"):
        lookup("NoPart")


@pytest.mark.parametrize(("name", "other"), [("SquaredLeakyReLU", "bitgolf.model.mlp"), ("SomePart", "bitgolf_b")])
def test_a_second_part_of_one_name_is_an_error_that_names_the_distribution(
    tmp_path: Path, name: str, other: str
) -> None:
    for letter in "bc":
        source = PART.format(name=name) + PART.format(name=f"Only{letter}")
        install(
            tmp_path / letter, f"bitgolf-{letter}", "1", {letter: f"bitgolf_{letter}"}, {f"bitgolf_{letter}": source}
        )
    with pytest.raises(RecipeError) as error:
        lookup("Onlyc")
    assert (
        f"of bitgolf-c 1 cannot be imported (TypeError: two parts are called {name}: one in {other}" in error.value.hint
    )
    assert "Onlyc" not in REGISTRY


def test_the_help_imports_no_plugin(tmp_path: Path) -> None:
    install(tmp_path, "bitgolf-loud", "1", {"loud": "bitgolf_loud"}, {"bitgolf_loud": "print('loud plugin')"})
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['bitgolf', '--help']; from bitgolf.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "bitgolf run quickstart" in done.stdout and "loud plugin" not in done.stdout
