"""The notebooks of the documentation: their cells run in their order, in a process of their own, as a kernel would run them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.forked import ForkedProcess
from helpers.forked_programs import run_python

DOCS = Path(__file__).parents[2] / "docs"
KERNEL = """
import ast, json, sys
from pathlib import Path

from bitgolf.pipeline.html_report import page

page.run_charts = lambda contents: []
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
"""Runs the cells of a JSON file in one namespace, and displays the value of a last expression. Reports have no charts."""


def cells(notebook: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == kind]


def shown_by(name: str) -> tuple[str, str]:
    """What the cells of a notebook show, and what they print on standard error, in the current folder."""
    sources = ["".join(cell["source"]) for cell in cells(DOCS / name, "code")]
    Path("cells.json").write_text(json.dumps(sources))
    done = ForkedProcess(run_python, ["-c", KERNEL, "cells.json"], Path("shown.txt")).finish()
    assert done.status == 0, done.output
    return Path("shown.txt").read_text(), done.output


@pytest.mark.parametrize("notebook", sorted(DOCS.glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_is_stored_without_outputs(notebook: Path) -> None:
    """They differ between machines, and each run would change the file."""
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(notebook, "code"))
    identifiers = [cell["id"] for kind in ("code", "markdown") for cell in cells(notebook, kind)]
    assert len(identifiers) == len(set(identifiers)) >= 10


@pytest.mark.slow
def test_the_cells_of_the_notebook_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown, messages = shown_by("api.ipynb")
    assert messages == "", "progress=False prints nothing"
    assert "packed" in shown and "training_seconds" in shown and "def " in shown and "torch.Size" in shown
    table = shown.strip().splitlines()[-3:]
    assert [line.split()[0] for line in table] == ["activation", "SquaredLeakyReLU", "SquaredReLU"]


def test_the_cells_of_the_sweep_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown, _ = shown_by("sweep.ipynb")
    rows = {line.split()[0]: line.split() for line in shown.splitlines()}
    assert float(rows["fast"][1]) > 1 and 0 <= float(rows["fast"][5]) <= 1 and rows["base"][4:] == ["None", "None"]
    assert rows["train.optim.0.use.lr"][1:] == ["0.03", "0.1"]


def test_the_cells_with_an_own_part_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown, messages = shown_by("own_part.ipynb")
    assert messages == "" and "'packed'" in shown
    assert "must be above 0" in shown and shown.strip().endswith("ShiftedReLU(shift=0.2)")
