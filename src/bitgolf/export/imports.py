"""The names that an import statement binds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple


class Imported(NamedTuple):
    """What an imported name stands for: an attribute of a module, or the module itself if `attribute` is empty."""

    module: str
    attribute: str


def imported_names(statement: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Imported]]:
    """Yield each name that an import binds, and what it stands for."""
    for alias in statement.names:
        if isinstance(statement, ast.ImportFrom):
            yield alias.asname or alias.name, Imported(statement.module or "", alias.name)
        elif alias.asname:
            yield alias.asname, Imported(alias.name, "")
        else:
            yield alias.name.split(".")[0], Imported(alias.name.split(".")[0], "")
