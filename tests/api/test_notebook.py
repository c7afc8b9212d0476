"""The notebook of the documentation: its cells run in their order, in a process of their own, as a kernel would run them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.forked import ForkedProcess
from helpers.forked_programs import run_python

NOTEBOOK = Path(__file__).parents[2] / "docs" / "api.ipynb"
KERNEL = """
import ast, json, sys
from pathlib import Path

namespace = {"__name__": "__main__"}
for cell in json.loads(Path(sys.argv[1]).read_text()):
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), namespace)
    if last:
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)
        getattr(value, "_repr_html_", value.__repr__)()
        print(repr(value))
"""
"""Runs the cells of a JSON file in one namespace, and displays the value of a last expression."""


def cells(kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == kind]


def test_the_notebook_is_stored_without_outputs() -> None:
    """They differ between machines, and each run would change the file."""
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells("code"))
    identifiers = [cell["id"] for kind in ("code", "markdown") for cell in cells(kind)]
    assert len(identifiers) == len(set(identifiers)) > 10


@pytest.mark.slow
def test_the_cells_of_the_notebook_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cells.json").write_text(json.dumps(["".join(cell["source"]) for cell in cells("code")]))
    done = ForkedProcess(run_python, ["-c", KERNEL, "cells.json"], Path("shown.txt")).finish()
    assert done.status == 0, done.output
    assert done.output == "", "progress=False prints nothing"
    shown = Path("shown.txt").read_text()
    assert "packed" in shown and "training_seconds" in shown and "def " in shown and "torch.Size" in shown
    table = shown.strip().splitlines()[-3:]
    assert [line.split()[0] for line in table] == ["activation", "SquaredLeakyReLU", "SquaredReLU"]
