"""Removal of what a program does not need when it runs: docstrings, annotations, assertions, casts, overloads.

Annotations stay where they are read: fields of msgspec structs, and functions whose decorator may read them, such as
operators of torch and kernels of Triton.
"""

from __future__ import annotations

import ast

from bitgolf.export.class_bases import foreign_bases

SILENT_DECORATORS = frozenset(
    "property cached_property staticmethod classmethod cache lru_cache contextmanager register setter no_grad "
    "inference_mode wraps total_ordering abstractmethod override".split()
)
"""Decorators, by the last part of their names, that read no annotations."""
GENERIC_CONSTRUCTORS = frozenset("dict list set tuple frozenset defaultdict deque Counter OrderedDict".split())
"""Classes whose type arguments change nothing when they are called."""


def simplify_module(tree: ast.Module, module: str) -> ast.Module:
    """Return the module's tree, which is changed, without what it does not need. module: its name."""
    simplified = _Simplifier(module).visit(tree)
    assert isinstance(simplified, ast.Module)
    return ast.fix_missing_locations(simplified)


class _Simplifier(ast.NodeTransformer):
    """One pass over a module. path: names of the classes around the current node. depth: of functions around it."""

    def __init__(self, module: str) -> None:
        self.module, self.path, self.depth = module, list[str](), 0

    def visit_Module(self, node: ast.Module) -> ast.Module:
        node.body = self._body(node.body, empty_allowed=True)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

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
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.For | ast.While | ast.With | ast.Try | ast.ExceptHandler | ast.match_case):
            node.body = node.body or [ast.Pass()]
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom | None:
        return None if node.module == "__future__" else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        decorators = [_last_name(decorator) for decorator in node.decorator_list]
        if "overload" in decorators:
            return None
        node.decorator_list = [d for d, name in zip(node.decorator_list, decorators, strict=True) if name != "override"]
        self.depth += 1
        node.body = self._body(node.body)
        self.depth -= 1
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
        self.path.append(node.name)
        node.body = self._body(node.body)
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
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "cast" and len(node.args) == 2:
            return node.args[1]
        if isinstance(node.func, ast.Subscript) and _last_name(node.func.value) in GENERIC_CONSTRUCTORS:
            node.func = node.func.value
        return node

    def _body(self, statements: list[ast.stmt], *, empty_allowed: bool = False) -> list[ast.stmt]:
        kept = list[ast.stmt]()
        for statement in statements:
            found = self.visit(statement)
            kept += found if isinstance(found, list) else [found] if found is not None else []
        return kept or ([] if empty_allowed else [ast.Pass()])


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _last_name(node: ast.expr) -> str:
    """Return the last part of the name of a decorator or function, `setter` for `@x.setter`; "" if it has none."""
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
