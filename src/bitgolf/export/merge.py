"""Definitions of a whole script that can be smaller: arguments that are never read, classes that add nothing."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator

from bitgolf.export.effects import Effects
from bitgolf.export.simplify import last_name


def drop_arguments(tree: ast.Module, roots: Collection[str]) -> bool:
    """Remove arguments that a function of the module never reads, where all its mentions are plain calls.

    roots: functions that are called elsewhere. Returns whether the tree, which is changed, has changed.
    """
    effects = Effects(tree)
    calls, values = dict[str, list[ast.Call]](), set(roots)
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and id(node) in effects.variables and not isinstance(node.ctx, ast.Store):
            if id(node) in called:
                calls.setdefault(node.id, []).append(called[id(node)])
            else:
                values.add(node.id)
    changed = False
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.decorator_list and node.name not in values:
            for name in _unread_arguments(node):
                changed |= _drop_argument(node, name, calls.get(node.name, []), effects)
    return changed


def _unread_arguments(node: ast.FunctionDef) -> list[str]:
    read = {n.id for statement in node.body for n in ast.walk(statement) if isinstance(n, ast.Name)}
    plain = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return [argument.arg for argument in plain if argument.arg not in read]


def _drop_argument(node: ast.FunctionDef, name: str, calls: Collection[ast.Call], effects: Effects) -> bool:
    positional = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    at = positional.index(name) if name in positional else None
    for call in calls:
        passed = [keyword.value for keyword in call.keywords if keyword.arg == name]
        passed += [call.args[at]] if at is not None and at < len(call.args) else []
        spread = any(isinstance(value, ast.Starred) for value in call.args) or not all(k.arg for k in call.keywords)
        if spread or not all(map(effects.is_pure, passed)):
            return False
    for call in calls:
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


def join_classes(tree: ast.Module, texts: Collection[str]) -> bool:
    """Use the base of a class instead of it, if it adds nothing and is only derived from. Returns whether any was.

    The tree is changed; the class itself is then mentioned nowhere.
    """
    empty = {
        node.name: node.bases[0].id
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and len(node.bases) == 1
        and isinstance(node.bases[0], ast.Name)
        and not node.decorator_list
        and not node.keywords
        and node.name not in texts
        and all(isinstance(statement, ast.Pass) for statement in node.body)
    }
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    only = {node.name: node.bases[0] for node in classes if len(node.bases) == 1}  # others have an order of their bases
    elsewhere = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node not in only.values()}
    changed = False
    for base in only.values():
        while isinstance(base, ast.Name) and base.id in empty and base.id not in elsewhere:
            base.id, changed = empty[base.id], True
    return changed


def drop_annotations(tree: ast.Module) -> bool:
    """Remove the types of the fields of msgspec structs that nothing decodes. Returns whether any was removed."""
    structs = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef) and _has_annotations(node)}
    decoded, pending = set[str](), list(_decoded_names(tree))
    while pending:
        name = pending.pop()
        if name not in decoded:
            decoded.add(name)
            pending += [n.id for n in ast.walk(structs[name]) if isinstance(n, ast.Name)] if name in structs else []
    changed = False
    for name in structs.keys() - decoded:
        for field in structs[name].body:
            if isinstance(field, ast.AnnAssign) and not isinstance(field.annotation, ast.Constant):
                field.annotation, changed = ast.Constant(0), True
    return changed


def _has_annotations(node: ast.ClassDef) -> bool:
    return any(isinstance(statement, ast.AnnAssign) for statement in node.body)


def _decoded_names(tree: ast.AST) -> Iterator[str]:
    """Yield the names in types that a call decodes to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            types = [keyword.value for keyword in node.keywords if keyword.arg == "type"]
            types += node.args[1:] if last_name(node) == "convert" else []
            yield from (name.id for value in types for name in ast.walk(value) if isinstance(name, ast.Name))
