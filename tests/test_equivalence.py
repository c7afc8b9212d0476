"""docs/equivalence.md: its tables are complete, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "equivalence.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| ---")
]
HEADERS = [row for row in ROWS if row[-1] == "test"]


@cache
def functions_of(path: str) -> set[str]:
    """The names of the test functions of a file, without importing it."""
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)))
def test_a_named_test_exists(path: str, name: str) -> None:
    assert (ROOT / path).is_file(), f"docs/equivalence.md names {path}, which does not exist"
    assert name in functions_of(path), f"docs/equivalence.md names {path}::{name}, which does not exist"


def test_every_row_is_complete() -> None:
    """Each has a reference, what is compared, a tolerance, a measured difference, and a test."""
    assert len(HEADERS) == 4 and {len(row) for row in ROWS} == {6}
    rows = [row for row in ROWS if row not in HEADERS]
    assert len(rows) > 30 and all(all(row) for row in rows)
    assert all(re.fullmatch(r"`tests/[\w/]+\.py::\w+`", row[-1]) for row in rows)
    assert not re.search("@", TEXT)


def test_every_file_of_oracle_tests_is_named() -> None:
    files = {path.name for path in (ROOT / "tests" / "oracles").glob("test_*.py")}
    assert files - {Path(path).name for path, _ in NAMED} == set()


@pytest.mark.parametrize("page", ["README.md", "docs/techniques.md"])
def test_it_is_linked(page: str) -> None:
    assert "equivalence.md)" in (ROOT / page).read_text()
