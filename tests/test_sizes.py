"""Functions in `src` and `bench` have at most 40 lines, with their docstrings, and files at most 300."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for folder in ("src", "bench") for path in sorted((ROOT / folder).rglob("*.py"))]
LONGEST_FUNCTION, LONGEST_FILE = 40, 300


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines of a function from `def` to its end, without decorators."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def too_long(path: Path) -> set[str]:
    """Return the file and those of its functions that are too long, whichever apply."""
    source, name = path.read_text(), path.relative_to(ROOT).as_posix()
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    found = {f"{name}::{node.name}" for node in functions if lines_of(node) > LONGEST_FUNCTION}
    return found | ({name} if len(source.splitlines()) > LONGEST_FILE else set())


def test_files_and_functions_are_short() -> None:
    assert len(FILES) > 100
    found: set[str] = set().union(*map(too_long, FILES))
    assert sorted(found) == []


def test_a_long_function_and_a_long_file_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "long.py"
    path.write_text("@property\ndef short():\n" + "    pass\n" * 39 + "def long():\n" + "    pass\n" * 40)
    assert too_long(path) == {"long.py::long"}
    path.write_text("\n" * 301)
    assert too_long(path) == {"long.py"}
