"""Arguments and variables of functions that always have the same value in a script."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from bitgolf.export.literals import UNKNOWN, Known, literal, same
from bitgolf.export.scopes import FunctionNode
from bitgolf.export.script_tree import Facts, ScriptTree
from bitgolf.export.simplify import last_name
from bitgolf.export.walk import walk

Parts = Mapping[str, list[dict[str, Any]]]
"""Name of a registered class -> its parts in the JSON form of a recipe."""


def constant_arguments(program: ScriptTree, roots: Collection[str], parts: Parts) -> dict[ast.Name, ast.expr]:
    """Return the names that mean arguments whose value is the same literal in every call -> the literal.

    roots: functions that are called elsewhere. parts: of the recipe, which call registered classes.
    """
    calls, others = program.known(calls_by_name)
    changed = {word for facts in program.facts for word in facts.known(_changed_settings)}
    found = dict[ast.Name, ast.expr]()
    for statement in program.statements:
        name = getattr(statement, "name", "")
        function = _called_function(statement)
        if not function or not isinstance(statement, FunctionNode | ast.ClassDef) or name in others or name in roots:
            continue
        is_part = "register" in map(last_name, statement.decorator_list)
        given = parts.get(name, []) if is_part else []
        for argument, default in _arguments(function, keywords_only=is_part):
            values = [_passed(call, function, argument, default) for call in calls[name]]
            values += [_stated(part, argument, default) for part in given]
            value = UNKNOWN if is_part and argument in changed else same(values)
            if isinstance(value, ast.expr):
                found |= dict.fromkeys(_reads(program, statement, function, argument), value)
    return found


def constant_variables(facts: Facts) -> dict[ast.Name, ast.expr]:
    """Return the names that read variables of functions which are assigned once, a literal -> the literal."""
    found = dict[ast.Name, ast.expr]()
    assigned = {name: value for node in facts.nodes if isinstance(node, ast.Assign) for name, value in _stores(node)}
    for scope in facts.scope.walk() if assigned else ():
        for mentions in scope.variables.values() if isinstance(scope.node, FunctionNode) else ():
            names = [mention.node for mention in mentions if isinstance(mention.node, ast.Name)]
            stored = [name for name in names if not isinstance(name.ctx, ast.Load)]
            if len(names) == len(mentions) and len(stored) == 1 and stored[0] in assigned:
                found |= dict.fromkeys((n for n in names if n is not stored[0]), assigned[stored[0]])
    return found


def _stores(node: ast.Assign) -> Iterator[tuple[ast.Name, ast.expr]]:
    """Yield the variables that an assignment gives a literal."""
    pairs: list[tuple[ast.expr, ast.expr]] = [(target, node.value) for target in node.targets]
    for target, value in pairs:
        match target, value:
            case ast.Name(), _ if isinstance(known := literal(value), ast.expr):
                yield target, known
            case ast.Tuple(elts=targets), ast.Tuple(elts=values) if len(targets) == len(values):
                pairs += zip(targets, values, strict=True)
            case _:
                pass


def _called_function(statement: ast.stmt) -> ast.FunctionDef | None:
    """Return the function that a call of what a statement defines executes."""
    match statement:
        case ast.FunctionDef(decorator_list=[]):
            return statement
        case ast.ClassDef(body=body) if {last_name(d) for d in statement.decorator_list} <= {"register"}:
            own = [member for member in body if isinstance(member, ast.FunctionDef) and member.name == "__init__"]
            return own[0] if own else None
        case _:
            return None


def calls_by_name(program: ScriptTree) -> tuple[dict[str, list[ast.Call]], set[str]]:
    """Return the calls of each function and class of the module, and the names that are also used otherwise."""
    calls, others = defaultdict[str, list[ast.Call]](list), set[str]()
    for facts in program.facts:
        own, used = facts.known(_uses)
        others |= used
        for name, call in own:
            calls[name].append(call)
    return calls, others


def _uses(facts: Facts) -> tuple[list[tuple[str, ast.Call]], set[str]]:
    """Return the calls of functions and classes of the module, and the names that are used otherwise.

    A test of a type is no use of a class. `part(C, …)` is a call of `C`, for an object that is made later.
    """
    free, calls, known = set(facts.free), list[tuple[str, ast.Call]](), set[ast.expr]()
    for node in facts.nodes:
        if isinstance(node, ast.Compare):
            known.update(name for name in node.comparators if isinstance(name, ast.Name))
    for call in facts.calls:
        makes_part = last_name(call) == "part" and call.func in free and call.args
        target = call.args[0] if makes_part else call.func
        if isinstance(target, ast.Name):
            calls.append((target.id, ast.Call(target, call.args[1:], call.keywords) if makes_part else call))
            known.add(target)
        if last_name(call) == "isinstance":
            known.update(name for name in walk(call.args[1]) if isinstance(name, ast.Name))
    return calls, {name.id for name in free - known if not isinstance(name.ctx, ast.Store)}


def _changed_settings(facts: Facts) -> set[str]:
    """Return the names of settings that the script itself may change: by a path, or by `replace` of a part."""
    found = set[str]()
    for node in facts.nodes:
        match node:
            case ast.Constant(value=str(text)) if "." in text:
                found.update(text.split("."))
            case ast.Call(func=ast.Attribute(attr="replace"), keywords=keywords):
                found.update(keyword.arg for keyword in keywords if keyword.arg)
            case _:
                pass
    return found


def _arguments(function: ast.FunctionDef, *, keywords_only: bool) -> Iterator[tuple[str, ast.expr | None]]:
    """Yield the arguments of a function, and their default values."""
    own = function.args
    if not keywords_only:
        plain = [*own.posonlyargs, *own.args]
        defaults = [None] * (len(plain) - len(own.defaults)) + own.defaults
        yield from ((argument.arg, default) for argument, default in zip(plain, defaults, strict=True))
    yield from ((argument.arg, default) for argument, default in zip(own.kwonlyargs, own.kw_defaults, strict=True))


def _passed(call: ast.Call, function: ast.FunctionDef, argument: str, default: ast.expr | None) -> Known:
    """Return the literal that a call passes."""
    if any(isinstance(value, ast.Starred) for value in call.args) or not all(k.arg for k in call.keywords):
        return UNKNOWN
    by_name = [keyword.value for keyword in call.keywords if keyword.arg == argument]
    if by_name:
        return literal(by_name[0])
    plain = [one.arg for one in (*function.args.posonlyargs, *function.args.args)]
    if argument in plain:
        at = plain.index(argument) - (function.name == "__init__")
        if at < 0:
            return UNKNOWN
        if at < len(call.args):
            return literal(call.args[at])
    return literal(default)


def _stated(part: Mapping[str, Any], argument: str, default: ast.expr | None) -> Known:
    """Return the literal that a part of the recipe passes: a whole number as a float where the default is one."""
    if argument not in part:
        return literal(default)
    value, usual = part[argument], literal(default)
    if type(value) is int and isinstance(usual, ast.Constant) and type(usual.value) is float:
        value = float(value)
    if value is not None and not isinstance(value, bool | int | float | str) and value != []:
        return UNKNOWN
    return literal(ast.parse(repr(value if value != [] else ()), mode="eval").body)


def _reads(program: ScriptTree, statement: ast.stmt, function: ast.FunctionDef, argument: str) -> list[ast.Name]:
    """Return the names that read an argument, none if it is also assigned."""
    scopes = [scope for scope in program.facts_of(statement).scope.walk() if scope.node is function]
    mentions = [
        m.node for scope in scopes for m in scope.variables.get(argument, ()) if not isinstance(m.node, ast.arg)
    ]
    names = [node for node in mentions if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    return names if len(names) == len(mentions) else []
