"""Class names are unique in the package and the benchmarks."""

from __future__ import annotations

import ast
from pathlib import Path

import bitgolf

PACKAGE = Path(bitgolf.__file__).parent
BENCH = Path(__file__).parents[1] / "bench"


def modules_by_class() -> dict[str, list[str]]:
    """Return class name -> modules that define it, including private and nested classes.

    A short form of a class, which stands for it in scripts, has its name (`export/short_forms.py`).
    """
    found: dict[str, list[str]] = {}
    for root in (PACKAGE, BENCH):
        for path in sorted(root.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef) and "short_form_of" not in map(_called, node.decorator_list):
                    found.setdefault(node.name, []).append(path.relative_to(root.parent).as_posix())
    return found


def _called(decorator: ast.expr) -> str:
    return ast.unparse(decorator.func) if isinstance(decorator, ast.Call) else ""


def test_no_class_name_stands_for_two_things() -> None:
    classes = modules_by_class()
    assert len(classes) > 300
    twice = {name: modules for name, modules in classes.items() if len(modules) > 1}
    assert twice == {}
