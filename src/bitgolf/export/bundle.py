"""The modules of a script in one namespace: every name of a module is a variable of its own, nothing imports them.

Statements stand in the order in which Python would execute them when it imports the modules. A name that two modules
have is written with the name of its module in front. What other packages provide is imported once, at the top; a
module that only functions import, from packages that may be missing, stands in a `try` of its own.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

from bitgolf.export.class_bases import PACKAGE, module_files
from bitgolf.export.imports import Imported, imported_names
from bitgolf.export.scopes import Mention, Scope, scopes_of
from bitgolf.export.walk import Transformer, walk

Symbol = tuple[str, str]
"""Module and name of what a variable stands for: of the package, or of another ("" for a whole module)."""


class MergedModules(NamedTuple):
    """Modules in one namespace. imports: of other packages. modules: name -> statements, in order.

    names: symbol -> the name of its variable. optional: modules whose packages may be missing.
    """

    imports: list[ast.stmt]
    modules: dict[str, list[ast.stmt]]
    names: dict[Symbol, str]
    optional: dict[str, list[ast.stmt]]


class _Module(NamedTuple):
    body: list[ast.stmt]
    scope: Scope
    imports: dict[str, Imported]


def bundle(
    modules: Mapping[str, list[ast.stmt]], roots: Iterable[str], replaced: Mapping[Symbol, Symbol]
) -> MergedModules:
    """Return modules in one namespace. Their trees are changed.

    modules: name -> statements, imports included. roots: modules that are imported first, in order. replaced: symbol
    -> symbol that is used instead.
    """
    return _Bundler(modules, replaced).bundle(roots)


class _Bundler:
    def __init__(self, modules: Mapping[str, list[ast.stmt]], replaced: Mapping[Symbol, Symbol]) -> None:
        self.replaced = replaced
        self.modules = {
            name: _Module(body, scopes_of(ast.Module(body, [])), _imports(body)) for name, body in modules.items()
        }
        self.mentions = dict[Symbol, list[Mention]]()
        self.attributes = dict[int, str]()

    def bundle(self, roots: Iterable[str]) -> MergedModules:
        order, eager = self._order(roots)
        for name in order:
            self._resolve_module(name)
        names = _distinct_names(self.mentions, set(order))
        for symbol, mentions in self.mentions.items():
            for mention in mentions:
                mention.rename(names[symbol])
        cleaner = _Cleaner(self.attributes)
        bodies = {name: cleaner.cleaned(self.modules[name].body) for name in order}
        optional = self._optional(order, eager)
        needed = {symbol for name in order if name not in optional for symbol in self._foreign(name)} & names.keys()
        own = {name: (self._foreign(name) - needed) & names.keys() for name in optional}
        return MergedModules(
            import_statements({symbol: names[symbol] for symbol in needed}),
            bodies,
            names,
            {name: import_statements({symbol: names[symbol] for symbol in found}) for name, found in own.items()},
        )

    def _order(self, roots: Iterable[str]) -> tuple[list[str], set[str]]:
        """Return the modules in the order of their import, and those that are imported before a function is called."""
        found = dict[str, None]()
        for root in roots:
            self._import(root, found)
        eager = set(found)
        for name in self.modules:
            self._import(name, found)
        return list(found), eager

    def _import(self, name: str, found: dict[str, None], around: tuple[str, ...] = ()) -> None:
        if name in found or name in around or name not in self.modules:
            return
        self._import(name.rpartition(".")[0], found, (*around, name))
        for target in self.modules[name].imports.values():
            whole = f"{target.module}.{target.attribute}"
            self._import(whole if whole in module_files() else target.module, found, (*around, name))
        found[name] = None

    def _resolve_module(self, name: str) -> None:
        """Collect the mentions of all symbols in a module."""
        module = self.modules[name]
        read = _attributes(module.body)
        for scope in module.scope.walk():
            imports = _imports_of_scope(scope) if scope.parent else module.imports
            for variable, mentions in scope.variables.items():
                target = imports.get(variable)
                if not target and not scope.parent and (variable in scope.bound or (name, variable) in self.replaced):
                    target = Imported(name, variable)
                if not target or (scope.parent and not _is_own(target.module)):
                    continue  # a variable of a function, or what it imports from another package when it is called
                scope.bound.discard(variable)
                for mention in mentions:
                    if not isinstance(mention.node, ast.alias):
                        self._mention(target, mention, read)

    def _mention(self, target: Imported, mention: Mention, read: Mapping[int, ast.Attribute]) -> None:
        symbol = self._symbol(target)
        while not symbol[1] and symbol[0] in module_files():
            attribute = read[id(mention.node)]  # nothing else is done with a module of the package
            symbol = self._symbol(Imported(symbol[0], attribute.attr))
            mention = Mention(attribute, partial(self.attributes.__setitem__, id(attribute)), mention.scope)
        self.mentions.setdefault(symbol, []).append(mention)

    def _symbol(self, target: Imported) -> Symbol:
        """Return what an imported name stands for, through all modules of the package that import it."""
        module, name = target
        if f"{module}.{name}" in module_files():
            return f"{module}.{name}", ""
        if (module, name) in self.replaced:
            return self._symbol(Imported(*self.replaced[module, name]))
        if module in self.modules and name in self.modules[module].imports:
            return self._symbol(self.modules[module].imports[name])
        return module, name

    def _foreign(self, name: str) -> set[Symbol]:
        return {(t.module, t.attribute) for t in self.modules[name].imports.values() if not _is_own(t.module)}

    def _optional(self, order: list[str], eager: set[str]) -> list[str]:
        """Return the modules that only functions import, with packages that no other module needs."""
        known = {_package(symbol[0]) for name in eager for symbol in self._foreign(name)} | set(sys.stdlib_module_names)
        return [name for name in order if any(_package(symbol[0]) not in known for symbol in self._foreign(name))]


def import_statements(symbols: Mapping[Symbol, str]) -> list[ast.stmt]:
    """Return the imports of what other packages provide, one statement for whole modules and one for each package."""
    whole = [ast.alias(m, name if name != m else None) for (m, a), name in sorted(symbols.items()) if not a]
    parts = dict[str, list[ast.alias]]()
    for (module, attribute), name in sorted(symbols.items()):
        if attribute:
            parts.setdefault(module, []).append(ast.alias(attribute, name if name != attribute else None))
    found: list[ast.stmt] = [ast.Import(whole)] if whole else []
    return found + [ast.ImportFrom(module, names, 0) for module, names in parts.items()]


def _is_own(module: str) -> bool:
    return _package(module) == PACKAGE


def _package(module: str) -> str:
    return module.partition(".")[0]


def _imports(body: Iterable[ast.stmt]) -> dict[str, Imported]:
    found = dict[str, Imported]()
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            found.update(imported_names(statement))
    return found


def _imports_of_scope(scope: Scope) -> dict[str, Imported]:
    mentions = (mention for own in scope.variables.values() for mention in own)
    aliases = {id(mention.node) for mention in mentions if isinstance(mention.node, ast.alias)}
    found = dict[str, Imported]()
    for node in walk(scope.node):
        if isinstance(node, ast.Import | ast.ImportFrom) and any(id(alias) in aliases for alias in node.names):
            found.update(imported_names(node))
    return found


def _attributes(body: Iterable[ast.stmt]) -> dict[int, ast.Attribute]:
    """Return identity of an expression -> the attribute that is read from it."""
    nodes = (node for statement in body for node in walk(statement))
    return {id(node.value): node for node in nodes if isinstance(node, ast.Attribute)}


def _distinct_names(mentions: Mapping[Symbol, list[Mention]], own: set[str]) -> dict[Symbol, str]:
    """Return a name for each symbol: its own where no other symbol has it and no variable of a function hides it."""
    found, taken = dict[Symbol, str](), set(dir(builtins))
    for symbol in sorted(mentions, key=lambda s: (s[0] in own, s)):
        scopes = {mention.scope for mention in mentions[symbol]}
        hidden = {name for scope in scopes for name in scope.visible()}
        found[symbol] = next(name for name in _candidates(symbol) if name not in taken and name not in hidden)
        taken.add(found[symbol])
    return found


def _candidates(symbol: Symbol) -> Iterator[str]:
    module, name = symbol
    if name:
        yield name
    elif "." not in module:
        yield module
    *_, last = module.split(".")
    joined = f"{last}_{name.lstrip('_')}" if name else last
    yield joined
    number = 1
    while True:
        yield f"{joined}_{(number := number + 1)}"


class _Cleaner(Transformer):
    """Removes imports of the package, and writes names for attributes of its modules.

    attributes: identity of an attribute -> name.
    """

    def __init__(self, attributes: Mapping[int, str]) -> None:
        self.attributes = attributes

    def cleaned(self, body: Iterable[ast.stmt]) -> list[ast.stmt]:
        rest = [statement for statement in body if not isinstance(statement, ast.Import | ast.ImportFrom)]
        return [self.visit(statement) for statement in rest]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if _is_own(node.module or "") else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if id(node) in self.attributes:
            return ast.Name(self.attributes[id(node)], node.ctx)
        return self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.stmt | ast.ExceptHandler) and getattr(node, "body", None) == []:
            node.body = [ast.Pass()]  # pyright: ignore[reportAttributeAccessIssue]
        return node
