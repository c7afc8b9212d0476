"""Attributes that every assignment of a script gives the same value.

Attributes are found by name, as in `prune`: names that objects of other packages have, or that a text contains, are left
alone.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator

from bitgolf.export.constant_arguments import calls_by_name
from bitgolf.export.effects import FOREIGN_NAMES
from bitgolf.export.literals import UNKNOWN, Known, literal, same
from bitgolf.export.scopes import FunctionNode
from bitgolf.export.script_tree import Facts, ScriptTree
from bitgolf.export.simplify import last_name
from bitgolf.export.walk import walk


def constant_attributes(program: ScriptTree, texts: Iterable[str]) -> dict[str, ast.expr]:
    """Return the attributes that every assignment of the script gives the same literal. texts: of the recipe.

    () stands for an empty list that nothing but loops read.
    """
    values = defaultdict[str, list[Known]](list)
    excluded = {word for text in texts for word in text.split(".")} | FOREIGN_NAMES
    changeable = set[str]()
    for name, value in _fields(program):
        values[name].append(value)
    for facts in program.facts:
        own = facts.known(_Assignments)
        excluded |= own.excluded
        changeable |= own.read_otherwise
        for name, value in own.values:
            values[name].append(value)
    found = {name: same(own) for name, own in values.items() if name not in excluded and not name.startswith("__")}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, ast.expr) and not (isinstance(value, ast.Tuple) and name in changeable)
    }


READERS = frozenset(["zip", "enumerate", "len", "map", "list", "tuple", "any", "all", "sorted"])
"""Functions of Python that read a list and keep nothing of it."""


class _Assignments:
    """What a statement does with attributes.

    values: attributes that it assigns, and which literals. excluded: those that it may change in other ways, or names.
    read_otherwise: those that something else than a loop, a test or a function of `READERS` reads.
    """

    def __init__(self, facts: Facts) -> None:
        self.values, self.excluded = list[tuple[str, Known]](), set[str]()
        assigned, read, attributes = set[ast.expr](), set[ast.AST](), list[ast.Attribute]()
        for node in facts.nodes:
            match node:
                case ast.Attribute():
                    attributes.append(node)
                case ast.Constant(value=str(text)):
                    self.excluded.update(text.split("."))
                case ast.Assign(targets=targets, value=value):
                    for target, found in (pair for one in targets for pair in _assigned(one, value)):
                        self.values.append((target.attr, found))
                        assigned.add(target)
                case ast.ClassDef():
                    self.values += _class_members(node)
                case ast.For(iter=value) | ast.comprehension(iter=value) | ast.If(test=value) | ast.IfExp(test=value):
                    read.add(value)
                case ast.UnaryOp(op=ast.Not(), operand=value):
                    read.add(value)
                case ast.Call(func=ast.Name(id=name), args=values) if name in READERS:
                    read.update(values)
                case _:
                    pass
        stored = (node for node in attributes if not isinstance(node.ctx, ast.Load) and node not in assigned)
        self.excluded.update(node.attr for node in stored)  # by a loop, `with`, `del`, `+=`
        self.read_otherwise = {n.attr for n in attributes if isinstance(n.ctx, ast.Load) and n not in read}


def _fields(program: ScriptTree) -> Iterator[tuple[str, Known]]:
    """Yield the fields of named tuples, dataclasses and structs, and what all calls give them."""
    calls, others = program.known(calls_by_name)
    replaced = {k.arg for facts in program.facts for call in facts.calls if _is_replace(call) for k in call.keywords}
    for facts in program.facts:
        node = facts.statement
        if not isinstance(node, ast.ClassDef):
            continue
        fields = [s for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]
        own = calls[node.name]
        is_open = node.name in others or not own or any(isinstance(n, ast.Name) and n.id == "cls" for n in facts.names)
        for at, field in enumerate(fields):
            name = field.target.id if isinstance(field.target, ast.Name) else ""
            is_changed = is_open or None in replaced or name in replaced
            yield name, UNKNOWN if is_changed else same(_field_value(call, at, name, field.value) for call in own)


def _is_replace(call: ast.Call) -> bool:
    return last_name(call) in ("_replace", "replace", "field")


def _field_value(call: ast.Call, at: int, name: str, default: ast.expr | None) -> Known:
    if any(isinstance(value, ast.Starred) for value in call.args) or not all(k.arg for k in call.keywords):
        return UNKNOWN
    passed = [keyword.value for keyword in call.keywords if keyword.arg == name] + call.args[at : at + 1]
    return literal(passed[0] if passed else default)


def _assigned(target: ast.expr, value: ast.expr | None) -> Iterator[tuple[ast.Attribute, Known]]:
    """Yield the attributes that an assignment sets, and to which literals."""
    match target:
        case ast.Attribute():
            yield target, ast.Tuple([], ast.Load()) if _is_empty(value) else literal(value)
        case ast.Tuple(elts=targets) | ast.List(elts=targets):
            alike = isinstance(value, ast.Tuple) and len(targets) == len(value.elts)
            values = value.elts if alike and isinstance(value, ast.Tuple) else [None] * len(targets)
            for one, own in zip(targets, values, strict=True):
                yield from _assigned(one, own)
        case _:
            pass


def _is_empty(value: ast.expr | None) -> bool:
    match value:
        case ast.List(elts=[]) | ast.Tuple(elts=[]) | ast.Call(func=ast.Name(id="list"), args=[], keywords=[]):
            return True
        case _:
            return False


def _class_members(node: ast.ClassDef) -> Iterator[tuple[str, Known]]:
    """Yield what the body of a class binds: variables, fields and methods. A property may return a literal."""
    for member in node.body:
        match member:
            case ast.AnnAssign():  # see `_fields`
                pass
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, literal(value)
            case ast.FunctionDef(name=name, body=[ast.Return(value=value)], decorator_list=[ast.Name(id="property")]):
                yield name, literal(value)
            case _:
                yield from ((name.id, UNKNOWN) for name in _bound(member))
                if isinstance(member, FunctionNode):
                    yield member.name, UNKNOWN


def _bound(member: ast.stmt) -> Iterator[ast.Name]:
    if not isinstance(member, FunctionNode):
        yield from (n for n in walk(member) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
