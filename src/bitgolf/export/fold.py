"""Removal of what a script cannot need: branches for parts without objects, and default values that are never used."""

from __future__ import annotations

import ast
from collections.abc import Collection

from bitgolf.export.walk import Transformer, walk


def folded(statement: ast.stmt, absent: Collection[str]) -> list[ast.stmt]:
    """Return a statement, which is changed, without branches that only objects of absent classes take.

    absent: names of classes without objects, so `type(x) is C` and `isinstance(x, C)` are false.
    """
    found = Folder(absent).visit(statement)
    return found if isinstance(found, list) else [found] if found else []


class Folder(Transformer):
    """Removes branches that constants decide. absent: see `folded`."""

    def __init__(self, absent: Collection[str]) -> None:
        self.absent = absent

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        generator = _yields(node)
        node.body = self._body(node.body) or [ast.Pass()]
        if generator and not _yields(node):
            ends = isinstance(node.body[-1], ast.Return)  # it stays a generator, of nothing
            node.body += [*([] if ends else [ast.Return(None)]), ast.Expr(ast.Yield(None))]
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        is_type = (
            isinstance(node.left, ast.Call) and isinstance(node.left.func, ast.Name) and node.left.func.id == "type"
        )
        if is_type and len(node.ops) == 1 and self._is_absent(node.comparators[0]):
            if isinstance(node.ops[0], ast.Is | ast.In):
                return ast.Constant(False)
            if isinstance(node.ops[0], ast.IsNot | ast.NotIn):
                return ast.Constant(True)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "isinstance" and self._is_absent(node.args[1]):
            return ast.Constant(False)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        decides = isinstance(node.op, ast.Or)
        if any(isinstance(inner, ast.NamedExpr) for inner in walk(node)):
            return node
        if any(_is(value, decides) for value in node.values):  # tests have no effects
            return ast.Constant(decides)
        node.values = [value for value in node.values if not _is(value, not decides)]
        if not node.values:
            return ast.Constant(not decides)
        return node if len(node.values) > 1 else node.values[0]

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not) and (_is(node.operand, True) or _is(node.operand, False)):
            return ast.Constant(_is(node.operand, False))
        return node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        node.test = self.visit(node.test)
        body, orelse = self._body(node.body), self._body(node.orelse)
        if _is(node.test, False):
            return orelse or [ast.Pass()]
        if _is(node.test, True):
            return body
        node.body, node.orelse = body or [ast.Pass()], orelse
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        return node.orelse if _is(node.test, False) else node.body if _is(node.test, True) else node

    def _body(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        found = list[ast.stmt]()
        for i, statement in enumerate(statements):
            made = self.visit(statement)
            found += made if isinstance(made, list) else [made]
            ends = bool(found) and isinstance(found[-1], ast.Return | ast.Raise | ast.Continue | ast.Break)
            if ends and not _is_bare_yield(statements[i + 1 :]):
                break  # nothing reaches the rest
        return found

    def _is_absent(self, classes: ast.expr) -> bool:
        """Return whether all classes that an expression names, `C`, `(C, D)` or `C | D`, are absent."""
        if isinstance(classes, ast.Tuple):
            return bool(classes.elts) and all(map(self._is_absent, classes.elts))
        if isinstance(classes, ast.BinOp):
            return self._is_absent(classes.left) and self._is_absent(classes.right)
        return isinstance(classes, ast.Name) and classes.id in self.absent


def _is_bare_yield(body: list[ast.stmt]) -> bool:
    """Return whether statements are what makes a function without items a generator."""
    match body:
        case [ast.Expr(value=ast.Yield(value=None))]:
            return True
        case _:
            return False


def _yields(function: ast.FunctionDef) -> bool:
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in walk(function))


def _is(node: ast.expr, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


Default = tuple[str, str]
"""Class and argument of its constructor whose default value is a part."""


def part_defaults(node: ast.ClassDef) -> list[str]:
    """Return the arguments of a class's constructor whose default value contains a part."""
    found = list[str]()
    for function in _constructors(node):
        pairs = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
        found += [argument.arg for argument, default in pairs if default is not None and _has_part(default)]
    return found


def drop_defaults(node: ast.ClassDef, unused: Collection[Default]) -> None:
    """Replace default values of a class's constructor by None, those of the arguments that `unused` names."""
    for function in _constructors(node):
        for i, argument in enumerate(function.args.kwonlyargs):
            if (node.name, argument.arg) in unused:
                function.args.kw_defaults[i] = ast.Constant(None)


def used_defaults(node: ast.AST, unused: Collection[Default]) -> set[Default]:
    """Return those of `unused` that a call in `node` needs: of `part(C, …)` or `C(…)` without the argument.

    A class that calls the constructor of its base without the argument needs its default, too.
    """
    found = set[Default]()
    for heir in (n for n in walk(node) if isinstance(n, ast.ClassDef)):
        bases = {base.id for base in heir.bases if isinstance(base, ast.Name)}
        for given in _given_to_base(heir):
            found |= {(name, argument) for name, argument in unused if name in bases and argument not in given}
    for call in walk(node):
        if not isinstance(call, ast.Call):
            continue
        target = call.args[0] if _is_call_of_part(call) and call.args else call.func
        given = {keyword.arg for keyword in call.keywords}
        if isinstance(target, ast.Name) and None not in given:
            found |= {(name, argument) for name, argument in unused if name == target.id and argument not in given}
        elif isinstance(target, ast.Name):
            found |= {default for default in unused if default[0] == target.id}
    return found


def _given_to_base(node: ast.ClassDef) -> list[set[str | None]]:
    """Return the names of the arguments of each `super().__init__(…)` in a class."""
    calls = (call for call in walk(node) if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute))
    own = (
        c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "__init__" and _is_super(c.func.value)
    )
    return [{keyword.arg for keyword in call.keywords} for call in own]


def _is_super(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


def _constructors(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [s for s in node.body if isinstance(s, ast.FunctionDef) and s.name == "__init__"]


def _has_part(default: ast.expr) -> bool:
    return any(isinstance(node, ast.Call) and _is_call_of_part(node) for node in walk(default))


def _is_call_of_part(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "part"
