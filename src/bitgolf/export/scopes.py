"""The variables of a Python source: in which scope each is bound, and every place that mentions it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from bitgolf.export.imports import Imported, imported_names
from bitgolf.export.walk import Visitor, children, walk

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


class Mention(NamedTuple):
    """A place where a variable is named. rename: writes another name there. scope: where the name is looked up.

    node: the name, the argument, the definition or the import that mentions it.
    """

    node: ast.AST
    rename: Callable[[str], None]
    scope: Scope


class Scope:
    """The module, a function, a lambda, a comprehension or a class: the names that it binds.

    variables: name -> all mentions of the variable that this scope binds. The module also has names that it does not
    bind: those of Python.
    """

    def __init__(self, node: ast.AST, parent: Scope | None, bound: Iterable[str]) -> None:
        self.node, self.parent, self.bound = node, parent, set(bound)
        self.variables = dict[str, list[Mention]]()
        self.children = list[Scope]()
        if parent:
            parent.children.append(self)

    def owner(self, name: str) -> Scope:
        """Return the scope whose variable a name means here."""
        scope: Scope = self
        while scope.parent and (
            name not in scope.bound or (isinstance(scope.node, ast.ClassDef) and scope is not self)
        ):
            scope = scope.parent
        return scope

    def walk(self) -> Iterator[Scope]:
        """Yield this scope and all scopes in it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def visible(self) -> set[str]:
        """Return the names of variables that hide those of the module here."""
        found, scope = set[str](), self
        while scope.parent:
            if scope is self or not isinstance(scope.node, ast.ClassDef):
                found |= scope.bound
            scope = scope.parent
        return found


def scopes_of(tree: ast.Module) -> Scope:
    """Return the scope of a module, with all scopes in it and all mentions of variables."""
    whole = Scope(tree, None, _bound_by(tree.body))
    _Visitor(whole).visit_all(tree.body)
    return whole


class _Visitor(Visitor):
    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def visit_all(self, nodes: Iterable[ast.AST | None]) -> None:
        for node in nodes:
            if node:
                self.visit(node)

    def mention(self, name: str, node: ast.AST, rename: Callable[[str], None]) -> None:
        self.scope.owner(name).variables.setdefault(name, []).append(Mention(node, rename, self.scope))

    def field(self, node: ast.AST, field: str) -> None:
        self.mention(getattr(node, field), node, lambda new: setattr(node, field, new))

    def inside(self, node: ast.AST, bound: Iterable[str], nodes: Iterable[ast.AST | None]) -> None:
        _Visitor(Scope(node, self.scope, bound)).visit_all(nodes)

    def visit_Name(self, node: ast.Name) -> None:
        self.field(node, "id")

    def visit_arg(self, node: ast.arg) -> None:
        self.field(node, "arg")

    def visit_alias(self, node: ast.alias) -> None:
        name = node.asname or node.name.split(".")[0]
        self.mention(name, node, lambda new: setattr(node, "asname", new if new != node.name else None))

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self.field(node, "name")
        self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        if node.name:
            self.field(node, "name")
        self.generic_visit(node)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        if node.name:
            self.field(node, "name")

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        if node.rest:
            self.field(node, "rest")
        self.generic_visit(node)

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> None:
        for i, name in enumerate(node.names):
            self.mention(name, node, lambda new, i=i: node.names.__setitem__(i, new))

    visit_Nonlocal = visit_Global

    def visit_FunctionDef(self, node: FunctionNode) -> None:
        self.field(node, "name")
        self.visit_all([*node.decorator_list, *node.args.defaults, *node.args.kw_defaults, node.returns])
        arguments = arguments_of(node.args)
        self.visit_all(argument.annotation for argument in arguments)
        inner = _Visitor(Scope(node, self.scope, function_names(node)))
        for argument in arguments:
            inner.visit_arg(argument)
        inner.visit_all(node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit_all([*node.args.defaults, *node.args.kw_defaults])
        self.inside(node, function_names(node), [*arguments_of(node.args), node.body])

    def visit_comprehension_like(self, node: Comprehension) -> None:
        first, *rest = node.generators
        self.visit(first.iter)
        inner = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        nodes = [first.target, *first.ifs, *(part for g in rest for part in (g.iter, g.target, *g.ifs)), *inner]
        self.inside(node, comprehension_names(node), nodes)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_comprehension_like

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.field(node, "name")
        self.visit_all([*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)])
        self.inside(node, class_names(node), node.body)


def arguments_of(arguments: ast.arguments) -> list[ast.arg]:
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [argument for argument in every if argument]


def comprehension_names(node: Comprehension) -> set[str]:
    """Return the names that a comprehension binds."""
    return {name.id for g in node.generators for name in walk(g.target) if isinstance(name, ast.Name)}


def class_names(node: ast.ClassDef) -> set[str]:
    """Return the names that the body of a class binds."""
    return set(_bound_by(node.body))


def function_names(node: FunctionNode | ast.Lambda) -> dict[str, Imported | None]:
    """Return the names that a function binds (arguments, variables, imports) -> what an import binds them to."""
    arguments = dict[str, Imported | None]({argument.arg: None for argument in arguments_of(node.args)})
    return arguments | _bound_by(node.body if isinstance(node.body, list) else [node.body])


def _bound_by(nodes: Iterable[ast.AST]) -> dict[str, Imported | None]:
    """Return the names that statements or an expression bind, without those that belong to an outer scope."""
    found, shared = dict[str, Imported | None](), set[str]()
    pending = list(nodes)
    while pending:
        inner = pending.pop()
        match inner:
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                shared.update(names)
            case ast.Import() | ast.ImportFrom():
                found.update(imported_names(inner))
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found[inner.name] = None
                continue
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp() | ast.Lambda():
                walrus = (w.target for w in walk(inner) if isinstance(w, ast.NamedExpr))
                found.update({target.id: None for target in walrus})
                continue
            case ast.Name(ctx=ast.Store()):
                found[inner.id] = None
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                found[name] = None
            case ast.MatchMapping(rest=str(name)):
                found[name] = None
            case _:
                pass
        pending += children(inner)
    return {name: target for name, target in found.items() if name not in shared}
