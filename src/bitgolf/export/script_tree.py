"""The statements of a whole script, and facts about each, which are kept until the statement changes."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, TypeVar

from bitgolf.export.scopes import FunctionNode, Scope, scopes_of
from bitgolf.export.walk import walk

T = TypeVar("T")


class Facts:
    """What stands in a statement of the module.

    nodes: all of its nodes. names, calls, classes: those of one kind. loads: how often it mentions a name. reads:
    attributes that are read, or that a text or a keyword names.
    """

    def __init__(self, statement: ast.stmt) -> None:
        self.statement, self.nodes = statement, walk(statement)
        self.names, self.calls, self.classes = list[ast.Name](), list[ast.Call](), list[ast.ClassDef]()
        self.reads = set[str]()
        for node in self.nodes:
            match node:
                case ast.Name():
                    self.names.append(node)
                case ast.Attribute(attr=name, ctx=ast.Load()) | ast.AugAssign(target=ast.Attribute(attr=name)):
                    self.reads.add(name)
                case ast.Constant(value=str(name)) | ast.keyword(arg=str(name)):
                    self.reads.add(name)
                case ast.Call():
                    self.calls.append(node)
                case ast.ClassDef():
                    self.classes.append(node)
                    own = [s for s in node.body if not isinstance(s, FunctionNode)]
                    self.reads |= {name.id for name in loaded_names(walk(*own))}  # that its body itself reads
                case _:
                    pass
        self.loads = Counter(name.id for name in loaded_names(self.names))
        self._found = dict[Callable[[Facts], Any], Any]()

    def known(self, find: Callable[[Facts], T]) -> T:
        """Return what a function finds in the statement, which is kept until it changes."""
        if find not in self._found:
            self._found[find] = find(self)
        return self._found[find]

    @cached_property
    def scope(self) -> Scope:
        """The variables of the statement. A name that no function in it binds is one of the module or of Python."""
        return scopes_of(ast.Module([self.statement], []))

    @property
    def free(self) -> Iterator[ast.Name]:
        """The names that mean variables of the module, or of Python."""
        for mentions in self.scope.variables.values():
            yield from (mention.node for mention in mentions if isinstance(mention.node, ast.Name))

    @cached_property
    def body_names(self) -> set[str]:
        """The names in the body of a function."""
        body = getattr(self.statement, "body", [])
        return {node.id for node in walk(*body) if isinstance(node, ast.Name)}

    @property
    def methods(self) -> Iterator[ast.FunctionDef]:
        for node in self.classes:
            yield from (method for method in node.body if isinstance(method, ast.FunctionDef))


class ScriptTree:
    """The statements of a script by module. They may be changed, if `changed` is called for each that was."""

    def __init__(self, modules: Mapping[str, list[ast.stmt]]) -> None:
        self.modules = dict(modules)
        self._facts = dict[ast.stmt, Facts]()
        self._whole = dict[Callable[[ScriptTree], Any], Any]()

    @property
    def statements(self) -> Iterator[ast.stmt]:
        for body in self.modules.values():
            yield from body

    @property
    def facts(self) -> Iterator[Facts]:
        return map(self.facts_of, self.statements)

    def facts_of(self, statement: ast.stmt) -> Facts:
        if statement not in self._facts:
            self._facts[statement] = Facts(statement)
        return self._facts[statement]

    def changed(self, statement: ast.stmt) -> None:
        self._facts.pop(statement, None)
        self._whole.clear()

    def known(self, find: Callable[[ScriptTree], T]) -> T:
        """Return what a function finds in the whole program, which is kept until a statement changes."""
        if find not in self._whole:
            self._whole[find] = find(self)
        return self._whole[find]


def module_variables(program: ScriptTree) -> set[ast.AST]:
    """Return the names in a program that mean variables of the module."""
    bound = {name for facts in program.facts for name in facts.scope.bound}
    return {node for facts in program.facts for node in facts.free if node.id in bound}


def loaded_names(nodes: list[ast.Name] | list[ast.AST]) -> Iterator[ast.Name]:
    """Yield the names among nodes that are not assigned."""
    return (node for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store))
