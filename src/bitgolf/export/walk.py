"""Walks over syntax trees and copies of them, faster than Python's own. Contexts and operators are no part of a walk."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T", bound=ast.AST)

LEAVES = frozenset(
    [
        *("ctx", "id", "attr", "op", "ops", "arg", "kind", "type_comment", "module", "level", "is_async", "simple"),
        *("asname", "rest", "kwd_attrs"),
    ]
)
"""Fields that hold no node, or one without meaning for a walk."""


class _InnerFields(dict[type, tuple[str, ...]]):
    """Kind of node -> its fields that may hold nodes."""

    def __missing__(self, kind: type[ast.AST]) -> tuple[str, ...]:
        fields = () if kind is ast.Constant else tuple(name for name in kind._fields if name not in LEAVES)
        self[kind] = fields
        return fields


INNER_FIELDS = _InnerFields()


def walk(*roots: ast.AST) -> list[ast.AST]:
    """Return nodes and all nodes in them, each before those in it."""
    found = list(roots)
    for node in found:  # which grows meanwhile
        for field in INNER_FIELDS[node.__class__]:
            value = getattr(node, field)
            if value.__class__ is list:
                found += [inner for inner in value if isinstance(inner, ast.AST)]
            elif isinstance(value, ast.AST):
                found.append(value)
    return found


def children(node: ast.AST) -> list[ast.AST]:
    """Return the nodes that stand directly in a node, in the order of the source."""
    found = list[ast.AST]()
    for field in INNER_FIELDS[node.__class__]:
        value = getattr(node, field)
        if value.__class__ is list:
            found += [inner for inner in value if isinstance(inner, ast.AST)]
        elif isinstance(value, ast.AST):
            found.append(value)
    return found


def copied(node: T) -> T:
    """Return a copy of a tree."""
    made = node.__class__()
    own = made.__dict__
    for name, value in node.__dict__.items():
        if value.__class__ is list:
            value = [copied(inner) if isinstance(inner, ast.AST) else inner for inner in value]
        elif name in INNER_FIELDS[node.__class__] and isinstance(value, ast.AST):
            value = copied(value)
        own[name] = value
    return made


class Visitor:
    """As `ast.NodeVisitor`: a method `visit_X` is called with each node of class `X`, and visits what is in it."""

    def visit(self, node: ast.AST) -> Any:
        method = _method(self.__class__, node.__class__)
        return method(self, node) if method else self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> Any:
        for inner in children(node):
            self.visit(inner)


class Transformer(Visitor):
    """As `ast.NodeTransformer`: a method `visit_X` returns what takes the place of the node: a node, a list or None."""

    def generic_visit(self, node: ast.AST) -> Any:
        for field in INNER_FIELDS[node.__class__]:
            value = getattr(node, field)
            if value.__class__ is list:
                value[:] = self.visit_all(value)
            elif isinstance(value, ast.AST):
                setattr(node, field, self.visit(value))
        return node

    def visit_all(self, values: list[Any]) -> list[Any]:
        """Return what takes the place of the nodes of a list."""
        found = list[Any]()
        for value in values:
            made = self.visit(value) if isinstance(value, ast.AST) else value
            if made.__class__ is list:
                found += made
            elif made is not None or value is None:
                found.append(made)
        return found


@cache
def _method(visitor: type, kind: type) -> Callable[[Any, Any], Any] | None:
    return getattr(visitor, f"visit_{kind.__name__}", None)
