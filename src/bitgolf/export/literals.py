"""Expressions with a fixed value."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import NamedTuple


class Unknown(NamedTuple):
    """What is not the same literal everywhere."""


UNKNOWN = Unknown()
Known = ast.expr | Unknown


def literal(value: ast.expr | None) -> Known:
    """Return an expression that has a fixed value, without anything in it: a constant, its negative, or ()."""
    match value:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())) | ast.Tuple(elts=[]):
            return value
        case _:
            return UNKNOWN


def same(values: Iterable[Known]) -> Known:
    """Return the literal that all values are, `UNKNOWN` if they differ or there is none."""
    found = list(values)
    if not found or any(isinstance(value, Unknown) for value in found):
        return UNKNOWN
    texts = {ast.dump(value) for value in found if isinstance(value, ast.expr)}
    return found[0] if len(texts) == 1 else UNKNOWN
