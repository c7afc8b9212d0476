"""Short names for the variables of a script: those of the module, of functions, and arguments.

An argument keeps its name where it may be passed by that name: by a keyword, by a text, or by another package. So does
a class that is registered under its name.
"""

from __future__ import annotations

import ast
import keyword
from collections import defaultdict
from collections.abc import Iterator, Set
from itertools import product
from string import ascii_letters, ascii_lowercase, ascii_uppercase, digits

from bitgolf.export.known_names import SILENT_DECORATORS
from bitgolf.export.scopes import FunctionNode, Mention, Scope, arguments_of, scopes_of
from bitgolf.export.simplify import last_name
from bitgolf.export.walk import walk

SEES_NAMES = frozenset(["locals", "eval", "exec", "globals"])
"""Functions that see the names of variables. In a module that mentions one, all names stay."""
Variable = tuple[Scope, str]


def shorten_variables(tree: ast.Module) -> None:
    """Give short names to the variables of a module, which is changed."""
    whole = scopes_of(tree)
    if SEES_NAMES & whole.variables.keys():
        return
    kept, named = _passed_by_name(tree), called_by_name(tree)
    fixed = {variable for scope in whole.walk() for variable in _fixed(scope, kept, named)}
    uses = _uses(whole)
    names = {variable: variable[1] for variable in fixed}
    for scope in whole.walk():
        taken = {names[variable] for variable in uses[scope] if variable in names}
        taken |= {name for inner in scope.walk() for owner, name in uses[inner] & fixed if owner is inner}
        free = _free_names(ascii_lowercase if scope.parent else ascii_uppercase, taken)
        own = scope.variables.items()
        order = own if scope.parent else sorted(own, key=lambda item: -len(item[1]))
        for name, mentions in order:
            if (scope, name) not in fixed:
                names[scope, name] = next(free)
                for mention in mentions:
                    mention.rename(names[scope, name])


def _uses(whole: Scope) -> dict[Scope, set[Variable]]:
    """Return scope -> the variables that are mentioned in it or in a scope inside."""
    found = defaultdict[Scope, set[Variable]](set)
    for scope in whole.walk():
        for name, mentions in scope.variables.items():
            for mention in mentions:
                around: Scope | None = mention.scope
                while around and (scope, name) not in found[around]:
                    found[around].add((scope, name))
                    around = around.parent if around is not scope else None
    return found


def _passed_by_name(tree: ast.Module) -> set[str]:
    """Return the names of arguments that a call may pass by name: its keywords, and texts."""
    found = set[str]()
    for node in walk(tree):
        if isinstance(node, ast.Call):
            found |= {passed.arg for passed in node.keywords if passed.arg}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            found.add(node.value)
    return found


def _fixed(scope: Scope, passed: Set[str], named: Set[str]) -> Iterator[Variable]:
    """Yield the variables of a scope that keep their names."""
    kept = _kept_arguments(scope.node, passed, named)
    for name, mentions in scope.variables.items():
        if (
            isinstance(scope.node, ast.ClassDef)
            or name not in scope.bound
            or name in kept
            or name.startswith("__")
            or any(_keeps_name(mention, scope) for mention in mentions)
        ):
            yield scope, name


def _kept_arguments(node: ast.AST, passed: Set[str], named: Set[str]) -> set[str]:
    """Return the arguments of a function that keep their names."""
    if not isinstance(node, FunctionNode | ast.Lambda):
        return set()
    arguments = {argument.arg for argument in arguments_of(node.args)}
    if keeps_arguments(node, named):
        return arguments
    return arguments & passed | {argument.arg for argument in node.args.kwonlyargs}


def called_by_name(tree: ast.AST) -> set[str]:
    """Return the names of functions that torch calls with keyword arguments."""
    passed = (node.value for node in walk(tree) if isinstance(node, ast.keyword) and node.arg == "setup_context")
    return {last_name(value) for value in passed}


def keeps_arguments(node: FunctionNode | ast.Lambda, named: Set[str]) -> bool:
    """Return whether the names of a function's arguments mean something to other packages. named: see `called_by_name`."""
    if isinstance(node, ast.Lambda):
        return False
    return node.name in named or not {last_name(decorator) for decorator in node.decorator_list} <= SILENT_DECORATORS


def _keeps_name(mention: Mention, scope: Scope) -> bool:
    """Return whether what mentions a variable binds it by its name: a registered class, an import in a function."""
    node = mention.node
    if isinstance(node, ast.ClassDef):
        return any(last_name(decorator) != "dataclass" for decorator in node.decorator_list)
    return isinstance(node, ast.alias) and bool(scope.parent)


def _free_names(first: str, taken: Set[str]) -> Iterator[str]:
    """Yield short names that are not taken, whose first character is one of `first`."""
    for rest in range(3):
        for letters in product(first, *[ascii_letters + digits] * rest):
            name = "".join(letters)
            if name not in taken and not keyword.iskeyword(name):
                yield name
