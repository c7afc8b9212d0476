"""Which calls of a whole script have no effect, and which functions do nothing."""

from __future__ import annotations

import ast
import inspect
import io
import re
import struct
import types
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed

from bitgolf.export.known_names import PURE_CALLS
from bitgolf.export.script_tree import ScriptTree, module_variables
from bitgolf.export.simplify import last_name
from bitgolf.export.walk import walk

FOREIGN_TYPES = (
    *(dict, list, set, str, bytes, bytearray, memoryview, tuple, int, float, slice, range, type, deque, Counter),
    *(io.BufferedRandom, io.TextIOWrapper, Path, Future, ThreadPoolExecutor, re.Pattern, re.Match, struct.Struct),
    *(types.GeneratorType, types.FunctionType, types.MethodType, types.ModuleType, types.CodeType, partial),
    *(inspect.Signature, inspect.Parameter, BaseException, OSError, ImportError, types.TracebackType),
    *(torch.Tensor, torch.nn.Module, torch.nn.ModuleList, torch.nn.Parameter, torch.Generator, torch.cuda.Event),
    *(torch.cuda.Stream, torch.device, torch.dtype, torch.Size, torch.distributed.Work, torch.autograd.Function),
    *(np.ndarray, np.dtype, np.generic, np.memmap, np.random.Generator, np.iinfo, np.finfo),
)


def _attributes_of(kind: type) -> Iterator[str]:
    """Yield the names of attributes of a class, and those that its own methods mention, as objects may have them."""
    yield from dir(kind)
    for base in kind.__mro__:
        for member in vars(base).values():
            if isinstance(member, types.FunctionType):
                yield from member.__code__.co_names


FOREIGN_NAMES = frozenset(name for kind in FOREIGN_TYPES for name in _attributes_of(kind))
"""Names of the attributes of objects of other packages that the package handles."""


class Effects:
    """Facts about the functions of a script, by name.

    null: functions that do nothing and return None. identity: functions that return one of their arguments -> its
    position. transparent: contexts that do nothing. pure: functions that only compute a value. variables: the names
    that mean variables of the module.
    """

    def __init__(self, program: ScriptTree) -> None:
        self.variables = program.known(module_variables)
        functions = [node for node in program.statements if isinstance(node, ast.FunctionDef)]
        plain = [node for node in functions if not node.decorator_list]
        self.null = {node.name for node in plain if _does_nothing(node.body)}
        self.identity = {node.name: at for node in plain if (at := _returned_argument(node)) is not None}
        self.transparent = {node.name for node in functions if _only_yields(node)}
        self.pure, self.pure_methods = self.null | set(self.identity), set[str]()
        methods = _methods(program)
        self.null_methods = {name for name, own in methods.items() if all(map(_is_null, own))}
        while True:
            more = {n.name for n in plain if n.name not in self.pure and all(map(self.only_computes, n.body))}
            more_methods = {
                name
                for name, own in methods.items()
                if name not in self.pure_methods and all(self.only_computes(s) for node in own for s in node.body)
            }
            self.pure |= more
            self.pure_methods |= more_methods
            if not more and not more_methods:
                break

    def is_pure(self, value: ast.AST | None) -> bool:
        """Return whether an expression only computes a value."""
        if value is None:
            return True
        for node in walk(value):
            if isinstance(node, ast.NamedExpr | ast.Yield | ast.YieldFrom | ast.Await):
                return False
            if isinstance(node, ast.Call) and not self._is_pure_call(node):
                return False
        return True

    def _is_pure_call(self, call: ast.Call) -> bool:
        if isinstance(call.func, ast.Name):
            if call.func in self.variables:
                return call.func.id in self.pure
            return call.func.id in PURE_CALLS
        name = last_name(call)
        return name in PURE_CALLS or name in self.pure_methods

    def only_computes(self, statement: ast.stmt) -> bool:
        """Return whether a statement of a function has no effect outside of it."""
        match statement:
            case ast.Return(value=value) | ast.Expr(value=value):
                return self.is_pure(value)
            case ast.Assign(targets=targets, value=value):
                return all(map(_is_name, targets)) and self.is_pure(value)
            case ast.If(test=test, body=body, orelse=orelse):
                return self.is_pure(test) and all(map(self.only_computes, [*body, *orelse]))
            case ast.For(target=target, iter=values, body=body, orelse=orelse):
                return _is_name(target) and self.is_pure(values) and all(map(self.only_computes, [*body, *orelse]))
            case ast.Pass() | ast.Break() | ast.Continue():
                return True
            case _:
                return False


def _is_name(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple | ast.List):
        return all(map(_is_name, node.elts))
    return isinstance(node, ast.Name)


def _does_nothing(body: Iterable[ast.stmt]) -> bool:
    return all(
        isinstance(s, ast.Pass) or (isinstance(s, ast.Return) and (s.value is None or _is_none(s.value))) for s in body
    )


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _returned_argument(node: ast.FunctionDef) -> int | None:
    """Return the position of the argument that a function does nothing with but return it."""
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    match node.body:
        case [ast.Return(value=ast.Name(id=name))] if name in names:
            return names.index(name)
        case _:
            return None


def _only_yields(node: ast.FunctionDef) -> bool:
    if [last_name(decorator) for decorator in node.decorator_list] != ["contextmanager"]:
        return False
    match node.body:
        case [ast.Expr(value=ast.Yield(value=None))]:
            return True
        case _:
            return False


def _is_null(node: ast.FunctionDef) -> bool:
    return not node.decorator_list and _does_nothing(node.body)


def _methods(program: ScriptTree) -> dict[str, list[ast.FunctionDef]]:
    """Return name -> the methods of that name, of all classes, without names that objects of other packages have."""
    found = dict[str, list[ast.FunctionDef]]()
    for method in (method for facts in program.facts for method in facts.methods):
        if method.name not in FOREIGN_NAMES:
            found.setdefault(method.name, []).append(method)
    return found
