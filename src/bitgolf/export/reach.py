"""Which statements, classes and methods of the package a program reaches, found by reading the source.

Names are followed through scopes and imports. A method is reached if its class is, and its name is read as an attribute
or occurs as a text anywhere in what is reached; so are special methods, and those that a base class of another package
may call. This errs on the side of too much.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from bitgolf.export.class_bases import PACKAGE, is_called_by_base, module_files
from bitgolf.export.fold import Default
from bitgolf.export.imports import Imported, imported_names
from bitgolf.export.module_source import ModuleSource, source_without
from bitgolf.export.scopes import Comprehension, FunctionNode, comprehension_names, function_names
from bitgolf.export.walk import Visitor, walk

Scope = Mapping[str, Imported | None]
"""Names of a function -> what an import in it binds them to, None for other variables."""


class Method(NamedTuple):
    """A method of a class of the package that is reached when its name is."""

    module: ModuleSource
    node: FunctionNode


class Reached:
    """What a program reaches.

    statements: (module, index of its statement). names: (module, imported name) that its reached statements use.
    methods: nodes of reached methods. modules: all modules of which anything is executed.
    replaced: (module, name) -> (module, name) of what is used instead. absent: names of classes without objects.
    unused: default values that are left out.
    """

    def __init__(
        self,
        replaced: Mapping[tuple[str, str], tuple[str, str]],
        absent: Collection[str] = (),
        unused: Collection[Default] = (),
    ) -> None:
        self.replaced, self.absent, self.unused = replaced, absent, unused
        self._sources = dict[str, ModuleSource]()
        self.statements = defaultdict[str, set[int]](set)
        self.names = defaultdict[str, set[str]](set)
        self.substituted = defaultdict[str, set[str]](set)
        self.methods = set[FunctionNode]()
        self.modules = set[str]()
        self._attributes = set[str]()
        self._waiting = defaultdict[str, list[Method]](list)
        self._pending = list[tuple[ModuleSource, ast.AST]]()

    def source(self, module: str) -> ModuleSource:
        """Return the source of a module, without branches for absent classes."""
        if module not in self._sources:
            self._sources[module] = source_without(module, self.absent, self.unused)
        return self._sources[module]

    def follow(self, roots: Iterable[tuple[str, str]]) -> None:
        """Follow all names from these (module, name), until nothing more is reached."""
        for module, name in roots:
            self.require(module, name)
        while self._pending:
            source, node = self._pending.pop()
            _Reader(self, source).read(node)

    def has(self, module: str, name: str) -> bool:
        """Return whether a statement that binds a name of a module is reached."""
        return module in self.modules and any(
            index in self.statements[module] for index in self.source(module).definitions.get(name, ())
        )

    def nodes(self) -> Iterator[ast.AST]:
        """Yield the reached statements, without the methods of classes, and the reached methods."""
        yield from self.methods
        for module, indices in self.statements.items():
            for index in indices:
                statement = self.source(module).statements[index]
                if isinstance(statement, ast.ClassDef):
                    yield from (inner for inner in statement.body if not isinstance(inner, FunctionNode))
                else:
                    yield statement

    def classes(self) -> Iterator[ast.ClassDef]:
        """Yield the reached classes."""
        for module, indices in self.statements.items():
            statements = (self.source(module).statements[index] for index in indices)
            yield from (statement for statement in statements if isinstance(statement, ast.ClassDef))

    def require(self, module: str, name: str) -> None:
        """Reach the statements that bind a name of a module of the package. name: "" for the whole module."""
        if module not in module_files():
            return None
        if name and f"{module}.{name}" in module_files():
            return self.require_module(f"{module}.{name}")
        self.require_module(module)
        if (module, name) in self.replaced:
            self.substituted[module].add(name)
            return self.require(*self.replaced[module, name])
        source = self.source(module)
        if name in source.definitions:
            for index in source.definitions[name]:
                self._require_statement(source, index)
        elif name in source.imports:
            self.names[module].add(name)
            self.require(*source.imports[name])
        elif not name:
            for index in range(len(source.statements)):
                self._require_statement(source, index)
        return None

    def require_module(self, module: str) -> None:
        """Reach a module, the packages around it, and what they do when they are imported."""
        if module in self.modules:
            return
        self.modules.add(module)
        if "." in module:
            self.require_module(module.rpartition(".")[0])
        source = self.source(module)
        for index in source.effects:
            self._require_statement(source, index)

    def attribute(self, name: str) -> None:
        """Reach all methods of this name, of classes that are reached now or later."""
        if name not in self._attributes:
            self._attributes.add(name)
            for method in self._waiting.pop(name, []):
                self._require_method(method)

    def require_method(self, method: Method) -> None:
        """Reach a method of a reached class as soon as its name is read."""
        if method.node.name in self._attributes:
            self._require_method(method)
        else:
            self._waiting[method.node.name].append(method)

    def _require_method(self, method: Method) -> None:
        if method.node not in self.methods:
            self.methods.add(method.node)
            self._pending.append((method.module, method.node))

    def _require_statement(self, source: ModuleSource, index: int) -> None:
        if index not in self.statements[source.name]:
            self.statements[source.name].add(index)
            self._pending.append((source, source.statements[index]))


class _Reader(Visitor):
    """Reads a statement, and reaches what its names and attributes stand for."""

    def __init__(self, reached: Reached, source: ModuleSource) -> None:
        self.reached, self.source, self.scopes = reached, source, list[Scope]()

    def read(self, node: ast.AST) -> None:
        self.visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store | ast.Del) and not self.scopes:
            return
        target = self._resolve(node.id)
        if target:
            self.reached.require(*target)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.reached.attribute(node.attr)
        target = self._module_of(node.value)
        if target:
            self.reached.require(target, node.attr)
        else:
            self.visit(node.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and node.value.isidentifier():
            self.reached.attribute(node.value)

    def visit_Import(self, node: ast.Import) -> None:
        for _, imported in imported_names(node):
            self.reached.require(*imported)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.visit_Import(node)  # pyright: ignore[reportArgumentType]

    def visit_FunctionDef(self, node: FunctionNode) -> None:
        for outside in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(outside)
        for argument in walk(node.args):
            if isinstance(argument, ast.arg) and argument.annotation:
                self.visit(argument.annotation)
        self._visit_scope(function_names(node), node.body)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default)
        self._visit_scope(function_names(node), [node.body])

    def visit_comprehension_like(self, node: Comprehension) -> None:
        names = dict.fromkeys(comprehension_names(node))
        for generator in node.generators:
            self.visit(generator.iter)
        inner = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        self._visit_scope(names, [*inner, *(test for g in node.generators for test in g.ifs)])
        for generator in node.generators:  # attributes and subscripts may be targets
            self._visit_scope(names, [generator.target, generator.iter])

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_comprehension_like

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for outside in (*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)):
            self.visit(outside)
        for statement in node.body:
            if self.scopes or not isinstance(statement, FunctionNode):
                self.visit(statement)
            elif is_called_by_base(self.source.name, node.name, statement.name):
                self.reached._require_method(Method(self.source, statement))
            else:
                self.reached.require_method(Method(self.source, statement))

    def _visit_scope(self, names: Scope, nodes: Iterable[ast.AST]) -> None:
        self.scopes.append(names)
        for node in nodes:
            self.visit(node)
        self.scopes.pop()

    def _resolve(self, name: str) -> Imported | None:
        """Return what a name stands for, None for variables, builtins and names of other packages."""
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        if name in self.source.imports:
            self.reached.names[self.source.name].add(name)
            found = self.source.imports[name]
            return found if found.module.split(".")[0] == PACKAGE else None
        return Imported(self.source.name, name) if name in self.source.definitions else None

    def _module_of(self, node: ast.expr) -> str:
        """Return the name of the module of the package that an expression is, "" for others."""
        if isinstance(node, ast.Name):
            target = self._resolve(node.id)
            if target is None:
                return ""
            whole = f"{target.module}.{target.attribute}" if target.attribute else target.module
            return whole if whole in module_files() else ""
        if isinstance(node, ast.Attribute):
            owner = self._module_of(node.value)
            return f"{owner}.{node.attr}" if owner and f"{owner}.{node.attr}" in module_files() else ""
        return ""
