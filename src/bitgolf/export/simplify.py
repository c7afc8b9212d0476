"""Removal of what a script does not need when it runs: docstrings, annotations, assertions, casts, overloads, checks.

A recipe is checked when its script is made, so statements that only check a value and raise an error of the package are
left out. Other exceptions keep their class and place, but not their message. What only the log of a run folder or a
progress bar shows is left out, too. Annotations stay where they are read: fields of msgspec structs, and functions whose decorator may read them, such as
operators of torch and kernels of Triton.
"""

from __future__ import annotations

import ast

from bitgolf.export.class_bases import foreign_bases
from bitgolf.export.known_names import (
    CHECKS,
    ERRORS,
    GENERIC_CONSTRUCTORS,
    KEPT_WHOLE,
    PURE_CALLS,
    SHOWN_ONLY,
    SILENT_DECORATORS,
    UNUSED_BASES,
    UNUSED_DECORATORS,
)
from bitgolf.export.walk import Transformer, walk


def simplify_module(tree: ast.Module, module: str) -> ast.Module:
    """Return the module's tree, which is changed, without what it does not need. module: its name."""
    simplified = _Simplifier(module).visit(tree)
    assert isinstance(simplified, ast.Module)
    return simplified


class _Simplifier(Transformer):
    """One pass over a module. path: names of the classes around the current node. depth: of functions around it."""

    def __init__(self, module: str) -> None:
        self.module, self.path, self.depth = module, list[str](), 0

    def visit_Module(self, node: ast.Module) -> ast.Module:
        node.body = self._body(node.body, empty_allowed=True)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        call = node.value
        if isinstance(call, ast.Constant) or (isinstance(call, ast.Call) and _is_shown_only(call)):
            return None
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.exc, ast.Call) and last_name(node.exc) in ERRORS:
            node.cause = None
            if self.module not in KEPT_WHOLE:
                node.exc = node.exc.func
        return node

    def visit_With(self, node: ast.With) -> ast.AST | list[ast.stmt]:
        node.items = [item for item in node.items if last_name(item.context_expr) != "error_location"]
        if not node.items:
            return self._body(node.body)
        self.generic_visit(node)
        return node

    def visit_Assert(self, node: ast.Assert) -> None:
        return None

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt] | None:
        test, negated = node.test, False
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            test, negated = test.operand, True
        if isinstance(test, ast.Name) and test.id == "TYPE_CHECKING":
            return self._body(node.body if negated else node.orelse, empty_allowed=True)
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        if self.module not in KEPT_WHOLE and not node.orelse and _only_checks(node.body):
            needed = _walrus_names(node.test) or not _only_reads(node.test)  # a later name, or an effect of a call
            return ast.Expr(node.test) if needed else None
        return node

    def visit_Try(self, node: ast.Try) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        rewords = all(_is_check(handler.body[-1]) or _is_bare_raise(handler.body[-1]) for handler in node.handlers)
        if node.handlers and rewords and not node.finalbody:
            return [*node.body, *node.orelse]
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.For | ast.While | ast.With | ast.Try | ast.ExceptHandler | ast.match_case):
            node.body = node.body or [ast.Pass()]
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom | None:
        return None if node.module == "__future__" else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        decorators = [last_name(decorator) for decorator in node.decorator_list]
        if "overload" in decorators or (self.path and not self.depth and _is_abstract(node, decorators)):
            return None
        node.decorator_list = [
            d for d, name in zip(node.decorator_list, decorators, strict=True) if name not in UNUSED_DECORATORS
        ]
        self.depth += 1
        node.body = self._body(node.body)
        self.depth -= 1
        if not self.depth:
            _remove_unread(node)
        node.args.defaults = [self.visit(default) for default in node.args.defaults]
        node.args.kw_defaults = [default and self.visit(default) for default in node.args.kw_defaults]
        if all(name in SILENT_DECORATORS for name in decorators):
            node.returns = None
            for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                argument.annotation = None
            for argument in (node.args.vararg, node.args.kwarg):
                if argument:
                    argument.annotation = None
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        if self.depth:  # a class of a function, which cannot be looked at: its annotations are kept
            node.body = [statement for statement in node.body if not _is_text(statement)]
            return node
        node.bases = [base for base in node.bases if last_name(_generic(base)) not in UNUSED_BASES]
        node.decorator_list = [d for d in node.decorator_list if last_name(d) not in UNUSED_DECORATORS]
        self.path.append(node.name)
        is_protocol = any(last_name(_generic(base)) == "Protocol" for base in node.bases)
        node.body = self._body([s for s in node.body if not is_protocol or not _is_text(s)])
        self.path.pop()
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        node.value = node.value and self.visit(node.value)
        if self.path and not self.depth and isinstance(node.target, ast.Name):
            bases = foreign_bases(self.module, self.path[-1])
            if "msgspec.Struct" in bases:
                return node
            if bases & {"dataclass", "typing.NamedTuple"}:
                if "ClassVar" not in ast.unparse(node.annotation):
                    node.annotation = ast.Constant(0)
                return node
        if node.value is None:
            return None
        return ast.Assign([node.target], node.value, lineno=node.lineno)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if self.module not in KEPT_WHOLE and last_name(node) in ERRORS and node.args:
            node.args, node.keywords = [ast.Constant("")], []
            return node
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "cast" and len(node.args) == 2:
            return node.args[1]
        if isinstance(node.func, ast.Name) and node.func.id == "zip":
            node.keywords = []  # lengths are checked where a user can get them wrong
        if isinstance(node.func, ast.Subscript) and last_name(node.func.value) in GENERIC_CONSTRUCTORS:
            node.func = node.func.value
        return node

    def _body(self, statements: list[ast.stmt], *, empty_allowed: bool = False) -> list[ast.stmt]:
        kept = list[ast.stmt]()
        for statement in statements:
            found = self.visit(statement)
            kept += found if isinstance(found, list) else [found] if found is not None else []
        return kept or ([] if empty_allowed else [ast.Pass()])


def _generic(base: ast.expr) -> ast.expr:
    return base.value if isinstance(base, ast.Subscript) else base


def _is_abstract(node: ast.FunctionDef, decorators: list[str]) -> bool:
    """Return whether classes that are derived must define a method: an object of the class itself has none."""
    if "abstractmethod" in decorators:
        return True
    match [statement for statement in node.body if not _is_text(statement)]:
        case [ast.Raise(exc=exc)] if exc:
            return last_name(exc) == "NotImplementedError" and not decorators
        case _:
            return False


def _is_shown_only(call: ast.Call) -> bool:
    return (
        isinstance(call.func, ast.Attribute)
        and call.func.attr in SHOWN_ONLY
        and ast.unparse(call.func.value).endswith("log")
    )


def _remove_unread(function: ast.FunctionDef) -> None:
    """Remove assignments of texts to variables that nothing reads: the parts of messages that were removed."""
    read = {n.id for n in walk(function) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Store)}
    read |= {name for n in walk(function) if isinstance(n, ast.Nonlocal | ast.Global) for name in n.names}
    found = False
    for node in walk(function):
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                kept = [s for s in statements if not _is_unread(s, read)]
                found = found or len(kept) < len(statements)
                setattr(node, field, kept or ([ast.Pass()] if statements and field == "body" else []))
    if found:
        _remove_unread(function)


def _is_unread(statement: ast.stmt, read: set[str]) -> bool:
    if isinstance(statement, ast.Expr) and (bound := _walrus_names(statement.value)):
        return not bound & read and _only_reads(statement.value)
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return False
    target = statement.targets[0]
    names = target.elts if isinstance(target, ast.Tuple) else [target]
    return all(isinstance(name, ast.Name) and name.id not in read for name in names) and _is_pure(statement.value)


def _walrus_names(value: ast.expr) -> set[str]:
    return {node.target.id for node in walk(value) if isinstance(node, ast.NamedExpr)}


def _only_reads(value: ast.expr) -> bool:
    """Return whether an expression has no effect, apart from names that it binds."""
    calls = (node for node in walk(value) if isinstance(node, ast.Call | ast.Yield | ast.Await))
    return all(last_name(call) in PURE_CALLS for call in calls if isinstance(call, ast.expr))


def _is_pure(value: ast.expr) -> bool:
    """Return whether an expression only makes a value, most often a text."""
    calls = (node for node in walk(value) if isinstance(node, ast.Call | ast.NamedExpr | ast.Yield | ast.Await))
    return isinstance(value, ast.JoinedStr) or all(last_name(c) in PURE_CALLS for c in calls if isinstance(c, ast.expr))


def _only_checks(body: list[ast.stmt]) -> bool:
    """Return whether statements make a message at most, and then raise an error of the package."""
    *before, last = body
    return _is_check(last) and all(isinstance(s, ast.Assign) and _is_pure(s.value) for s in before)


def _is_check(statement: ast.stmt) -> bool:
    """Return whether a statement raises an error of the package, with or without a message."""
    return isinstance(statement, ast.Raise) and statement.exc is not None and last_name(statement.exc) in CHECKS


def _is_bare_raise(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Raise) and statement.exc is None


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def last_name(node: ast.expr) -> str:
    """Return the last part of the name of a decorator or function, `setter` for `@x.setter`; "" if it has none."""
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
