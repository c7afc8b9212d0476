"""Shorter forms of Python source with the same meaning: no spaces that separate nothing, short names of variables."""

from __future__ import annotations

import ast
import builtins
import io
import token
import tokenize
from collections import Counter
from collections.abc import Iterator
from itertools import product
from string import ascii_letters
from typing import TypeGuard

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
UNTOUCHED = frozenset(["locals", "vars", "eval", "exec"])
"""Functions that see the names of variables: a function that calls one keeps its names."""


def minified(source: str) -> str:
    """Return source with the same meaning, in which variables of functions have short names and spaces are left out."""
    tree = ast.parse(source)
    known = {name for node in ast.walk(tree) for name in _global_names(node)} | set(dir(builtins))
    for function in _outermost_functions(tree):
        _rename_variables(function, known)
    return _without_spaces(ast.unparse(tree))


def _global_names(node: ast.AST) -> Iterator[str]:
    """Yield the names that a node may bind outside of functions, or in a way that is no plain variable."""
    match node:
        case ast.Import() | ast.ImportFrom():
            yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
        case ast.Global() | ast.Nonlocal():
            yield from node.names
        case ast.arg():
            yield node.arg
        case ast.Module():
            for statement in node.body:
                yield from (
                    n.id for n in ast.walk(statement) if _is_stored(n) and not isinstance(statement, FunctionNode)
                )
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.MatchMapping(rest=str(rest)):
            yield rest
        case _:
            pass


def _is_stored(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _outermost_functions(node: ast.AST) -> Iterator[FunctionNode]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FunctionNode):
            yield child
        else:
            yield from _outermost_functions(child)


def _rename_variables(function: FunctionNode, known: set[str]) -> None:
    """Rename the variables of a function and of the functions in it, each name to one that the function does not have.

    Arguments keep their names, since callers may use them. known: names that mean something outside of functions.
    """
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    if any(node.id in UNTOUCHED for node in names):
        return
    variables = {node.id for node in names if _is_stored(node)} - known
    variables -= {
        name.id
        for c in ast.walk(function)
        if isinstance(c, ast.ClassDef)
        for name in ast.walk(c)
        if isinstance(name, ast.Name)
    }
    free = _short_names({node.id for node in names} | known)
    short = {name: next(free) for name, _ in Counter(n.id for n in names if n.id in variables).most_common()}
    for node in names:
        node.id = short.get(node.id, node.id)


def _short_names(taken: set[str]) -> Iterator[str]:
    for length in (1, 2):
        for letters in product(ascii_letters, repeat=length):
            name = "".join(letters)
            if name not in taken and name not in ("as", "if", "in", "is", "or"):
                yield name


def _without_spaces(source: str) -> str:
    """Return source with one space of indentation for each level, and none between tokens that do not need one."""
    lines, out = source.splitlines(), list[str]()
    depth, fresh, inside, last = 0, True, 0, (1, 0)
    for kind, text, start, end, _ in tokenize.generate_tokens(io.StringIO(source).readline):
        name = token.tok_name[kind]
        if kind == token.INDENT:
            depth += 1
        elif kind == token.DEDENT:
            depth -= 1
        elif kind in (token.NEWLINE, token.NL):
            if not fresh:
                out.append("\n")
            fresh = True
        elif kind != token.ENDMARKER:
            if fresh:
                out.append(" " * depth)
            elif inside:
                out.append(lines[start[0] - 1][last[1] : start[1]] if start[0] == last[0] else "")
            elif _needs_space(out[-1], text) and start != last:
                out.append(" ")
            out.append(lines[start[0] - 1][start[1] : end[1]] if start[0] == end[0] else text)
            fresh = False
            inside += (name == "FSTRING_START") - (name == "FSTRING_END")
            last = end
    return "".join(out)


def _needs_space(before: str, after: str) -> bool:
    """Return whether two tokens would be read as one, or as a number with a suffix, without a space."""
    a, b = before[-1:], after[:1]
    if before[:1].isdigit() and (b.isalpha() or b == "."):
        return True
    if b in ("'", '"'):
        return before in STRING_PREFIXES
    return (a.isalnum() or a == "_") and (b.isalnum() or b == "_")


STRING_PREFIXES = frozenset(["r", "b", "f", "u", "rb", "br", "fr", "rf"])
