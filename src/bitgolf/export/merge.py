"""Definitions of a whole script that can be smaller: arguments that are never read, classes that add nothing."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import NamedTuple

from bitgolf.export.effects import Effects
from bitgolf.export.script_tree import Facts, ScriptTree
from bitgolf.export.simplify import last_name
from bitgolf.export.walk import walk


def drop_arguments(program: ScriptTree, roots: Collection[str]) -> bool:
    """Remove arguments that a function of the module never reads, where all its mentions are plain calls.

    roots: functions that are called elsewhere. Returns whether the program, which is changed, has changed.
    """
    effects = program.known(Effects)
    calls, values = defaultdict[str, list[_Call]](list), set(roots)
    for facts in program.facts:
        called = {node.func: node for node in facts.calls}
        for name in facts.free:
            if name in effects.variables and not isinstance(name.ctx, ast.Store):
                if name in called:
                    calls[name.id].append(_Call(called[name], facts.statement))
                else:
                    values.add(name.id)
    changed = False
    for node in program.statements:
        if isinstance(node, ast.FunctionDef) and not node.decorator_list and node.name not in values:
            for name in _unread_arguments(program.facts_of(node)):
                if _drop_argument(node, name, calls[node.name], effects):
                    changed = True
                    for statement in (node, *(call.statement for call in calls[node.name])):
                        program.changed(statement)
    return changed


class _Call(NamedTuple):
    """A call, and the statement of the module in which it is."""

    node: ast.Call
    statement: ast.stmt


def _unread_arguments(facts: Facts) -> list[str]:
    function = facts.statement
    assert isinstance(function, ast.FunctionDef)
    plain = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return [argument.arg for argument in plain if argument.arg not in facts.body_names]


def _drop_argument(node: ast.FunctionDef, name: str, calls: Collection[_Call], effects: Effects) -> bool:
    positional = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    at = positional.index(name) if name in positional else None
    for call, _ in calls:
        passed = [keyword.value for keyword in call.keywords if keyword.arg == name]
        passed += [call.args[at]] if at is not None and at < len(call.args) else []
        spread = any(isinstance(value, ast.Starred) for value in call.args) or not all(k.arg for k in call.keywords)
        if spread or not all(map(effects.is_pure, passed)):
            return False
    for call, _ in calls:
        call.keywords = [keyword for keyword in call.keywords if keyword.arg != name]
        if at is not None and at < len(call.args):
            del call.args[at]
    _remove_from(node.args, name)
    return True


def _remove_from(arguments: ast.arguments, name: str) -> None:
    keyword_only = [argument.arg for argument in arguments.kwonlyargs]
    if name in keyword_only:
        at = keyword_only.index(name)
        del arguments.kwonlyargs[at], arguments.kw_defaults[at]
        return
    every = [*arguments.posonlyargs, *arguments.args]
    at = [argument.arg for argument in every].index(name)
    default = at - (len(every) - len(arguments.defaults))
    if default >= 0:
        del arguments.defaults[default]
    arguments.posonlyargs = [argument for argument in arguments.posonlyargs if argument.arg != name]
    arguments.args = [argument for argument in arguments.args if argument.arg != name]


def join_classes(program: ScriptTree, texts: Collection[str]) -> bool:
    """Use the base of a class instead of it, if it adds nothing and is only derived from. Returns whether any was.

    The program is changed; the class itself is then mentioned nowhere.
    """
    empty = dict(_empty_classes(program, texts))
    if not empty:
        return False
    only = {  # classes with several bases have an order of them
        node.bases[0]: facts.statement for facts in program.facts for node in facts.classes if len(node.bases) == 1
    }
    elsewhere = {name.id for facts in program.facts for name in facts.names if name not in only}
    changed = False
    for base, statement in only.items():
        while isinstance(base, ast.Name) and base.id in empty and base.id not in elsewhere:
            base.id, changed = empty[base.id], True
            program.changed(statement)
    return changed


def _empty_classes(program: ScriptTree, texts: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the classes that add nothing to their only base, and its name."""
    for node in program.statements:
        match node:
            case ast.ClassDef(bases=[ast.Name(id=base)], decorator_list=[], keywords=[]) if node.name not in texts:
                if all(isinstance(statement, ast.Pass) for statement in node.body):
                    yield node.name, base
            case _:
                pass


def drop_annotations(program: ScriptTree) -> bool:
    """Remove the types of the fields of msgspec structs that nothing decodes. Returns whether any was removed."""
    structs = {node.name: node for node in program.statements if isinstance(node, ast.ClassDef) and any(_types(node))}
    if not structs:
        return False
    decoded, pending = set[str](), [name for facts in program.facts for name in _decoded_names(facts)]
    while pending:
        name = pending.pop()
        if name not in decoded:
            decoded.add(name)
            pending += [node.id for node in program.facts_of(structs[name]).names] if name in structs else []
    changed = False
    for name in structs.keys() - decoded:
        for field in _types(structs[name]):
            field.annotation, changed = ast.Constant(0), True
        program.changed(structs[name])
    return changed


def _types(node: ast.ClassDef) -> Iterator[ast.AnnAssign]:
    """Yield the fields of a class that have types."""
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and not isinstance(field.annotation, ast.Constant):
            yield field


def _decoded_names(facts: Facts) -> Iterator[str]:
    """Yield the names in types that a call decodes to."""
    for node in facts.calls:
        types = [keyword.value for keyword in node.keywords if keyword.arg == "type"]
        types += node.args[1:] if last_name(node) == "convert" else []
        yield from (name.id for name in walk(*types) if isinstance(name, ast.Name))
