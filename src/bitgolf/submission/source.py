"""A Python source, parsed and walked once, with what the rules look up: functions, calls, options, attributes."""

from __future__ import annotations

import ast
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple, TypeVar, cast

Node = TypeVar("Node", bound=ast.AST)
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


class EnvironmentOption(NamedTuple):
    """An option that a script reads from the environment into a name.

    variable: the environment's name. name: the attribute of a class, or the variable of the module. line: of the read.
    """

    variable: str
    name: str
    line: int


class Source:
    """A Python source. name: how findings call it. text: the code. is_packed: whether it only executes other code."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text, self.is_packed = name, text, False
        self.tree: ast.Module | None = None
        self.error: SyntaxError | None = None
        try:
            with warnings.catch_warnings():  # invalid escapes are the business of the author
                warnings.simplefilter("ignore")
                self.tree = ast.parse(text)
        except SyntaxError as error:
            self.error = error
        except (ValueError, MemoryError, RecursionError) as error:
            self.error = SyntaxError(str(error))

    @cached_property
    def _walked(self) -> tuple[list[ast.AST], dict[ast.AST, tuple[int, int]]]:
        """All nodes in the order of the text, and for each the range of itself and the nodes inside it."""
        nodes, ranges = list[ast.AST](), dict[ast.AST, tuple[int, int]]()
        stack: list[tuple[ast.AST, int]] = [(self.tree, -1)] if self.tree else []
        while stack:
            node, start = stack.pop()
            if start >= 0:
                ranges[node] = start, len(nodes)
                continue
            stack.append((node, len(nodes)))
            nodes.append(node)
            stack += [(child, -1) for child in reversed(_children(node))]
        return nodes, ranges

    @property
    def nodes(self) -> list[ast.AST]:
        """All nodes, in the order of the text."""
        return self._walked[0]

    def inside(self, node: ast.AST) -> list[ast.AST]:
        """Return a node of this source and all nodes inside it, in the order of the text."""
        nodes, ranges = self._walked
        start, end = ranges[node]
        return nodes[start:end]

    @cached_property
    def _by_type(self) -> dict[type[ast.AST], list[ast.AST]]:
        found = defaultdict[type[ast.AST], list[ast.AST]](list)
        for node in self.nodes:
            found[type(node)].append(node)
        return found

    def all(self, kind: type[Node]) -> list[Node]:
        """Return all nodes of a type, in the order of the text."""
        return cast(list[Node], self._by_type.get(kind, []))

    @cached_property
    def functions(self) -> list[FunctionNode]:
        """All functions and methods."""
        return [*self.all(ast.FunctionDef), *self.all(ast.AsyncFunctionDef)]

    @cached_property
    def calls(self) -> list[tuple[str, ast.Call]]:
        """All calls with the dotted name of their function, "" where it has none, by line."""
        found = [(dotted(node.func), node) for node in self.all(ast.Call)]
        return sorted(found, key=lambda pair: pair[1].lineno)

    @cached_property
    def texts(self) -> Counter[str]:
        """How often each text is a constant of the source."""
        return Counter(node.value for node in self.all(ast.Constant) if isinstance(node.value, str))

    @cached_property
    def read_names(self) -> set[str]:
        """Names and attributes that are read anywhere."""
        read = {node.attr for node in self.all(ast.Attribute) if isinstance(node.ctx, ast.Load)}
        return read | {node.id for node in self.all(ast.Name) if isinstance(node.ctx, ast.Load)}

    @cached_property
    def options(self) -> list[EnvironmentOption]:
        """The options that the script reads from the environment, in the bodies of classes and of the module."""
        if self.tree is None:
            return []
        bodies = [self.tree.body, *(node.body for node in self.all(ast.ClassDef))]
        return [option for body in bodies for option in _options(body)]


def _children(node: ast.AST) -> list[ast.AST]:
    found = list[ast.AST]()
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, ast.AST):
            found.append(value)
        elif isinstance(value, list):
            found += [item for item in value if isinstance(item, ast.AST)]
    return found


def dotted(node: ast.expr) -> str:
    """Return the dotted name of an expression such as `torch.nn.Linear`, "" if it is not one."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return f"{owner}.{node.attr}" if owner else f".{node.attr}"
    return ""


def _options(body: list[ast.stmt]) -> Iterator[EnvironmentOption]:
    for statement in body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
        elif isinstance(statement, ast.AnnAssign):
            target = statement.target
        else:
            continue
        variable = next(_environment_reads(statement.value), None) if statement.value is not None else None
        if isinstance(target, ast.Name) and variable is not None:
            yield EnvironmentOption(variable, target.id, statement.lineno)


def _environment_reads(value: ast.expr) -> Iterator[str]:
    """Yield the variable of each read of the environment in an expression."""
    for node in ast.walk(value):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            variable = node.args[0].value
            reads = dotted(node.func).endswith(("environ.get", "getenv")) or _is_environment_helper(node)
            if reads and isinstance(variable, str):
                yield variable


def _is_environment_helper(node: ast.Call) -> bool:
    """Whether a call is of a script's own helper for options, such as `env_int("SEED", 1)`, by its name."""
    name = dotted(node.func).lower().lstrip("_")
    return name.startswith(("env_", "getenv_", "get_env")) or name in ("env", "e")
