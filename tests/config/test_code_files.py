"""Code files of the user: what they may be called, what happens to their parts, and what an exception in one becomes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bitgolf.config.code_files import CODE_FILES, code_file_of_module, load_code, with_imported_files
from bitgolf.config.registry import REGISTRY, lookup, register
from bitgolf.config.requirements import requirements
from bitgolf.config.spec import schema
from bitgolf.errors import RecipeError, UsageError
from helpers.own_code import own_code_removed, write_code

__all__ = ["own_code_removed"]

PART = """
from bitgolf.config.registry import register

@register
class MyPart:
    def __init__(self, *, size: int = {size}) -> None:
        self.size = size
"""


def test_a_part_of_a_code_file_is_found_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no part called 'MyPart'"):
        lookup("MyPart")
    load_code([write_code(tmp_path, "my_parts.py", PART.format(size=3))])
    assert lookup("MyPart").__module__ == "my_parts" and schema(lookup("MyPart"))["size"][1] == 3
    assert list(CODE_FILES) == ["my_parts"]


def test_an_edited_file_is_loaded_again_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    path = write_code(tmp_path, "my_parts.py", PART.format(size=3))
    load_code([path])
    first = lookup("MyPart")
    load_code([path])
    assert lookup("MyPart") is first
    load_code([write_code(tmp_path, "my_parts.py", PART.format(size=4))])
    assert lookup("MyPart") is not first and schema(lookup("MyPart"))["size"][1] == 4
    load_code([write_code(tmp_path / "elsewhere", "my_parts.py", "x = 1")])
    assert "MyPart" not in REGISTRY


def test_a_file_imports_those_that_are_loaded_before_it(tmp_path: Path) -> None:
    base = write_code(tmp_path, "my_base.py", "WIDTH = 7")
    other = write_code(tmp_path, "my_other.py", "x = 1")
    parts = write_code(tmp_path, "my_parts.py", "import my_base\n" + PART.format(size="my_base.WIDTH"))
    load_code([base, other, parts])
    assert schema(lookup("MyPart"))["size"][1] == 7
    assert [file.name for file in with_imported_files([CODE_FILES["my_parts"]])] == ["my_base.py", "my_parts.py"]


def test_a_file_beside_it_is_not_imported_unless_it_is_named(tmp_path: Path) -> None:
    write_code(tmp_path, "my_base.py", "raise AssertionError('executed')")
    parts = write_code(tmp_path, "my_parts.py", "import my_base")
    with pytest.raises(UsageError, match="No module named 'my_base'") as error:
        load_code([parts])
    assert "--code my_base.py before --code my_parts.py" in error.value.hint


@pytest.mark.parametrize(
    ("source", "message", "line"),
    [
        ("x = 1\n1 / 0\n", "ZeroDivisionError: division by zero", ":2"),
        ("def f(:\n", "SyntaxError", ":1"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3", ":2"),
        (PART.format(size=1) + "raise ValueError('late')\n", "ValueError: late", ":8"),
        (PART.format(size=1).replace("MyPart", "SquaredLeakyReLU"), "SquaredLeakyReLU: one in bitgolf.model.mlp", ":4"),
        ("from bitgolf.config.registry import lookup\nlookup('Softcap2')\n", "RecipeError: there is no part", ":2"),
    ],
)
def test_an_exception_is_one_error_with_its_line_and_leaves_nothing(
    tmp_path: Path, source: str, message: str, line: str
) -> None:
    before, path = dict(REGISTRY), write_code(tmp_path, "my_parts.py", source)
    with pytest.raises(UsageError, match=message) as error:
        load_code([path])
    assert error.value.where == f"{path}{line}"
    assert REGISTRY.items() >= before.items() and "MyPart" not in REGISTRY
    assert "my_parts" not in sys.modules and not CODE_FILES


@pytest.mark.parametrize("name", ["my-parts.py", "parts.txt", "class.py", "3parts.py", ".py"])
def test_a_name_that_no_module_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="name of a Python module"):
        load_code([write_code(tmp_path, name, "")])


@pytest.mark.parametrize("name", ["json.py", "torch.py", "bitgolf.py", "sys.py", "time.py", "math.py", "numpy.py"])
def test_the_name_of_an_installed_module(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="name of an installed module"):
        load_code([write_code(tmp_path, name, "")])


def test_two_files_of_one_name_and_a_missing_file(tmp_path: Path) -> None:
    twins = [write_code(tmp_path / folder, "my_parts.py", "") for folder in "ab"]
    with pytest.raises(UsageError, match="two code files have the same name"):
        load_code(twins)
    with pytest.raises(UsageError, match="no such file"):
        load_code([tmp_path / "missing.py"])
    with pytest.raises(UsageError, match="this is a folder"):
        load_code([tmp_path])


def test_a_module_that_a_program_imported_is_a_code_file_with_what_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_code(tmp_path, "my_base.py", "WIDTH = 7")
    write_code(tmp_path, "my_parts.py", "import json\nimport my_base\n" + PART.format(size=5))
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("my_parts")
    found = code_file_of_module("my_parts")
    assert found and found.path == tmp_path / "my_parts.py" and list(CODE_FILES) == ["my_base", "my_parts"]
    assert code_file_of_module("json") is None and code_file_of_module("__main__") is None


def test_a_file_that_python_finds_by_itself_counts_as_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m bitgolf` finds modules in the current folder: what they contain is part of what a recipe needs."""
    write_code(tmp_path, "my_base.py", "WIDTH = 7")
    path = write_code(tmp_path, "my_parts.py", "import my_base\n" + PART.format(size="my_base.WIDTH"))
    monkeypatch.syspath_prepend(str(tmp_path))
    load_code([path])
    assert list(CODE_FILES) == ["my_base", "my_parts"]
    assert [needed.name for needed in requirements({"part": "MyPart"})] == ["my_base.py", "my_parts.py"]


def test_a_class_of_the_program_itself_is_refused_where_another_process_needs_it() -> None:
    register(type("OfProgram", (), {"__module__": "__main__"}))
    with pytest.raises(
        RecipeError, match="OfProgram is defined in '__main__', which no other process can load"
    ) as error:
        requirements({"part": "OfProgram"})
    assert "put it into a file of its own" in error.value.hint
    with pytest.raises(RecipeError, match="class Unknown is not registered"):
        requirements({"part": "Unknown"})
