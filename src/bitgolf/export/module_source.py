"""The source of one module of the package as statements: what each defines, imports, or does when it is executed."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from functools import cache

from bitgolf.export.class_bases import module_tree
from bitgolf.export.fold import Default, drop_defaults, folded
from bitgolf.export.imports import Imported, imported_names
from bitgolf.export.simplify import simplify_module
from bitgolf.export.walk import children, copied, walk


class ModuleSource:
    """A module of the package, without what no program needs when it runs (`simplify_module`).

    definitions: top-level name -> indices of the statements that bind it. imports: name -> what it stands for.
    effects: indices of statements that bind no name, which are executed if anything of the module is needed.
    """

    def __init__(self, name: str, statements: list[ast.stmt]) -> None:
        self.name, self.statements = name, statements
        self.definitions = dict[str, list[int]]()
        self.imports = dict[str, Imported]()
        self.effects = list[int]()
        for i, statement in enumerate(self.statements):
            self._read(i, statement)

    def _read(self, i: int, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self.imports.update(imported_names(statement))
            return
        names = list(bound_names(statement))
        for name in names:
            self.definitions.setdefault(name, []).append(i)
        if not names:
            self.effects.append(i)


def bound_names(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement of a module binds, without those in the bodies of functions and classes."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        yield from (name for name, _ in imported_names(statement))
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            yield from (node.id for node in walk(target) if isinstance(node, ast.Name) and is_stored(node))
    else:
        for child in children(statement):
            if isinstance(child, ast.stmt | ast.ExceptHandler):
                yield from bound_names(child)  # pyright: ignore[reportArgumentType]


def is_stored(node: ast.Name) -> bool:
    """Return whether a name is assigned here."""
    return isinstance(node.ctx, ast.Store)


@cache
def module_source(name: str) -> ModuleSource:
    """Return the source of a module of the package. The object is shared: do not change its statements."""
    return ModuleSource(name, simplify_module(copied(module_tree(name)), name).body)


def source_without(name: str, absent: Collection[str], unused: Collection[Default]) -> ModuleSource:
    """Return the source of a module without branches for the classes `absent`, and without default values (`fold`)."""
    return ModuleSource(name, [_folded(statement, absent, unused) for statement in module_source(name).statements])


def _folded(statement: ast.stmt, absent: Collection[str], unused: Collection[Default]) -> ast.stmt:
    if not isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return statement
    dropped = {default for default in unused if default[0] == statement.name}
    if not dropped and _tested_names(statement).isdisjoint(absent):
        return statement
    changed = folded(copied(statement), absent)[0]
    if isinstance(changed, ast.ClassDef):
        drop_defaults(changed, dropped)
    return changed


@cache
def _tested_names(statement: ast.stmt) -> frozenset[str]:
    """Return the names in the tests of types in a statement: `isinstance(x, C)`, `type(x) is C`."""
    found = set[str]()
    for node in walk(statement):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            found |= {name.id for name in walk(node.args[1]) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.Compare):
            found |= {name.id for side in node.comparators for name in walk(side) if isinstance(name, ast.Name)}
    return frozenset(found)
