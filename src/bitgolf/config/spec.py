"""Recipes as trees of typed, deferred constructors.

`part(cls, **kwargs)` makes a node. The signature of `cls.__init__` is the schema: positional-only parameters are
context that the builder supplies (a `BuildContext`, for parts of a model), all others are arguments that a recipe may
set. A wrong name or type is an error when the node is made, and in the type checker.
Nodes are immutable; `set`, `replace` and `edit` return new trees. The JSON form names registered classes only.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, get_args, get_origin, overload

from bitgolf.config.build_context import BuildContext
from bitgolf.config.glob import compile_glob
from bitgolf.config.paths import class_by_path, join_path, nearest_paths
from bitgolf.config.validate import coerce, mismatch
from bitgolf.errors import RecipeError, quoted
from bitgolf.files import json_digest

P = ParamSpec("P")
T = TypeVar("T", covariant=True)


@dataclass(frozen=True, eq=True)
class Spec(Generic[T]):
    """A node of a recipe: a class and the keyword arguments to build it with, defaults included."""

    cls: Callable[..., T]
    kwargs: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "kwargs", MappingProxyType(dict(self.kwargs)))

    def __call__(self, *context: Any) -> T:
        """Build the object, with the context as positional arguments.

        Raises `RecipeError` if the class takes another number of context arguments. An exception of the constructor
        keeps the node, for `config.locate`.
        """
        if len(context) != (needed := count_context_arguments(self.cls)):
            message = f"{self.name} cannot be used here: it needs {needed} context argument(s), got {len(context)}"
            raise RecipeError(message, where=self.name)
        try:
            made = self.cls(*context, **self.kwargs)
        except Exception as error:
            error.__dict__.setdefault("failed_node", self)  # of the innermost node
            raise
        for given in context:
            if isinstance(given, BuildContext) and given.record is not None:
                given.record[made] = self
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Spec[T]:
        return self  # immutable

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        """The node as the command line accepts it, `SquaredLeakyReLU(slope=0.3)`, without arguments at their default."""
        known = schema(self.cls)
        changed = [f"{k}={v!r}" for k, v in self.kwargs.items() if not _is_default(v, known[k][1])]
        return f"{self.name}({', '.join(changed)})" if changed else self.name

    @property
    def name(self) -> str:
        return cast(type, self.cls).__name__

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that identify the tree."""
        return json_digest(self.to_json())

    def __getitem__(self, path: str) -> Any:
        """Return the value at a dotted path, `model.block.pre_block.0.slope`. Raises `RecipeError` if there is none."""
        value: Any = self
        for i, key in enumerate(segments := path.split(".")):
            value = _child(value, key, ".".join(segments[:i]), self)
        return value

    def walk(self, path: str = "") -> Iterator[tuple[str, Spec[Any]]]:
        """Yield (path, node) for every node of the tree, this one first."""
        yield path, self
        for key, value in self.kwargs.items():
            for here, child in _children(join_path(path, key), value):
                yield from child.walk(here)

    def leaves(self, path: str = "") -> Iterator[tuple[str, Any]]:
        """Yield (path, value) for every plain value, and (path, class name) for every node."""
        yield path, self.name
        for key, value in self.kwargs.items():
            yield from _leaves(join_path(path, key), value)

    def replace(self, **kwargs: Any) -> Spec[T]:
        """Return this node with some arguments replaced."""
        return part(self.cls, **{**self.kwargs, **kwargs})  # pyright: ignore[reportCallIssue]

    def set(self, path: str, value: Any) -> Spec[T]:
        """Return this tree with the value at `path` replaced. Raises `RecipeError` if there is no such path."""
        _ = self[path]
        return cast(Spec[T], _replace(self, path.split("."), value, ""))

    def edit(self, select: str | type, edit: Callable[[Spec[Any]], Spec[Any]]) -> Spec[T]:
        """Return this tree with `edit` applied to every node matching `select`, a path glob (`**.mixer`) or a class.

        Raises `RecipeError` if no node matches, and if the tree stays the same.
        """
        matches = _matcher(select)
        touched: list[str] = []

        def visit(path: str, value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(visit(f"{path}.{i}", v) for i, v in enumerate(value))
            if not isinstance(value, Spec):
                return value
            inner = {k: visit(join_path(path, k), v) for k, v in value.kwargs.items()}
            node = Spec(value.cls, inner)
            if not matches(path, value):
                return node
            touched.append(path)
            return edit(node)

        new = visit("", self)
        what = select if isinstance(select, str) else select.__name__
        if not touched:
            raise RecipeError(
                f"the edit {what!r} matches no part", where=self.name, hint=nearest_paths(what, class_by_path(self))
            )
        if new == self:
            raise RecipeError(f"the edit {what!r} changes nothing", where=", ".join(touched))
        return new

    @staticmethod
    def validate(value: Any, args: tuple[Any, ...], where: str) -> Any:
        """Return `value` if it is a node that builds an instance of `args[0]`, as the annotation `Spec[...]` requires.

        where: the recipe path, for messages. Raises `RecipeError` otherwise.
        """
        if not isinstance(value, Spec):
            raise mismatch(value, f"a part of the kind {_type_name(args[0])}" if args else "a part", where)
        if args:
            _check_built_type(value, args[0], where)
        return value

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, which `config.parse.from_json` reads. Arguments of `omitted_at_default` may be left out."""
        omitted, known = getattr(self.cls, "omitted_at_default", ()), schema(self.cls)
        stated = {k: v for k, v in self.kwargs.items() if k not in omitted or not _is_default(v, known[k][1])}
        return {"part": self.name, **{k: _to_plain(v) for k, v in stated.items()}}


@overload
def part(cls: Callable[Concatenate[BuildContext, P], T], *args: P.args, **kwargs: P.kwargs) -> Spec[T]: ...
@overload
def part(cls: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Spec[T]: ...
def part(cls: Callable[..., T], *args: Any, **kwargs: Any) -> Spec[T]:
    """Return a recipe node: `cls`, to be built later with these keyword arguments.

    Raises `RecipeError` for an unknown or missing argument, and for a value of the wrong type.
    """
    if args:
        raise RecipeError(f"a part takes keyword arguments only, got {args!r:.120}", where=cls.__name__)
    return make_node(cls, kwargs, cls.__name__)


def make_node(cls: Callable[..., T], kwargs: Mapping[str, Any], where: str) -> Spec[T]:
    """Return the node of `part`, for a caller that knows its place.

    where: the path of the node in its recipe, for messages; "" for the recipe itself.
    """
    known = schema(cls)
    for key in kwargs:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            suggestion = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known) or 'nothing'}"
            message = f"{cls.__name__} takes no argument {quoted(repr(key))}"
            raise RecipeError(message, where=where or cls.__name__, hint=suggestion)
    full: dict[str, Any] = {}
    for key, (annotation, default) in known.items():
        value = kwargs.get(key, default)
        if value is inspect.Parameter.empty:
            required = ", ".join(f"{k}=…" for k, (_, default) in known.items() if default is inspect.Parameter.empty)
            message, hint = f"the argument {key!r} is missing", f"write {cls.__name__}({required})"
            raise RecipeError(message, where=where or cls.__name__, hint=hint)
        full[key] = coerce(value, annotation, join_path(where, key))
    return Spec(cls, full)


@cache
def schema(cls: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return argument -> (annotation, default) for the arguments of a class that a recipe may set.

    Positional-only parameters are left out: they are context.
    """
    hints = inspect.get_annotations(cast(Any, cls).__init__, eval_str=True)
    parameters = list(inspect.signature(cls).parameters.values())
    return {
        p.name: (hints.get(p.name, Any), p.default)
        for p in parameters
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    }


@cache
def count_context_arguments(cls: Callable[..., Any]) -> int:
    """Return the number of positional-only parameters of a class, which its builder supplies."""
    return sum(p.kind is p.POSITIONAL_ONLY for p in inspect.signature(cls).parameters.values())


def _is_default(value: Any, default: Any) -> bool:
    """Return whether a value equals the default of its argument. 1 equals 1.0, but not true."""
    return isinstance(value, bool) == isinstance(default, bool) and bool(value == default)


# ---- JSON and paths ------------------------------------------------------------------------------------------------


def _to_plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.to_json()
    if isinstance(value, tuple):
        return [_to_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _to_plain(v) for k, v in value.items()}
    return value


def _children(path: str, value: Any) -> Iterator[tuple[str, Spec[Any]]]:
    if isinstance(value, Spec):
        yield path, value
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from _children(f"{path}.{i}", item)


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Spec):
        yield from value.leaves(path)
    elif isinstance(value, tuple) and any(isinstance(v, Spec) for v in value):
        for i, item in enumerate(value):
            yield from _leaves(f"{path}.{i}", item)
    else:
        yield path, value


def _child(value: Any, key: str, at: str, root: Spec[Any]) -> Any:
    if isinstance(value, Spec) and key in value.kwargs:
        return value.kwargs[key]
    if isinstance(value, tuple) and key.isdecimal() and len(key) < 6 and int(key) < len(value):
        return value[int(key)]
    path = join_path(at, key)
    message = f"there is no path {quoted(repr(path))} in the recipe"
    raise RecipeError(message, where=root.name, hint=nearest_paths(path, class_by_path(root)))


def _replace(value: Any, keys: list[str], new: Any, at: str) -> Any:
    if not keys:
        return new
    head, rest = keys[0], keys[1:]
    path = join_path(at, head)
    if isinstance(value, Spec):
        return make_node(value.cls, {**value.kwargs, head: _replace(value.kwargs[head], rest, new, path)}, at)
    i = int(head)
    return (*value[:i], _replace(value[i], rest, new, path), *value[i + 1 :])


def _matcher(where: str | type) -> Callable[[str, Spec[Any]], bool]:
    if not isinstance(where, str):
        return lambda path, node: isinstance(node.cls, type) and issubclass(node.cls, where)
    pattern = compile_glob(where)
    return lambda path, node: pattern.matches(path)


# ---- types ---------------------------------------------------------------------------------------------------------


def _check_built_type(node: Spec[Any], wanted: Any, where: str) -> None:
    """Raise `RecipeError` unless the node builds a `wanted`, and its arguments fit the type arguments of `wanted`."""
    while inner := getattr(node.cls, "wraps", ""):
        node = node.kwargs[inner]
    cls = get_origin(wanted) or wanted
    if cls is Any or not isinstance(cls, type):  # or a type variable
        return
    if not (isinstance(node.cls, type) and issubclass(node.cls, cls)):
        raise mismatch(node, f"a part of the kind {_type_name(wanted)}", where)
    type_arguments = dict(zip(getattr(cls, "__parameters__", ()), get_args(wanted), strict=False))
    for key, (annotation, _) in schema(cls).items() if type_arguments else ():
        if variables := getattr(annotation, "__parameters__", ()):
            coerce(node.kwargs[key], annotation[tuple(type_arguments[v] for v in variables)], f"{where}.{key}")


def _type_name(annotation: Any) -> str:
    return getattr(annotation, "__name__", str(annotation))
