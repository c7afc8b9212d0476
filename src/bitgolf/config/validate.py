"""Checks of recipe values: each is checked against the type and range of its annotation, and converted if that is safe."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin, runtime_checkable

from bitgolf.config.ranges import Range
from bitgolf.errors import RecipeError


class OutOfRangeError(RecipeError):
    """A number of a recipe that is outside the range of its setting."""


@runtime_checkable
class SelfValidating(Protocol):
    """A class with its own check of the values that may stand for an annotation with it."""

    @staticmethod
    def validate(value: Any, args: tuple[Any, ...], where: str) -> Any:
        """Return `value` if it fits the class with the type arguments `args`. Raises `RecipeError` otherwise."""
        ...


def coerce(value: Any, annotation: Any, where: str) -> Any:
    """Return `value` in the annotated type: lists become tuples, integers become floats.

    where: the recipe path, for messages. Raises `RecipeError` if the value does not fit, and `OutOfRangeError` for a
    number outside the range of the annotation.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in (Any, inspect.Parameter.empty):
        return value
    if origin is Annotated:
        return _in_range(coerce(value, args[0], where), args[1:], where)
    if origin in (Union, UnionType):
        return _conform_union(value, args, where)
    if origin is Literal:
        if value in args and type(value) in map(type, args):
            return value
        raise mismatch(value, f"one of {', '.join(map(repr, args))}", where)
    if origin is tuple and isinstance(value, (tuple, list)):
        return _conform_tuple(tuple(value), args, where)
    if validate := _own_validate(origin or annotation):
        return validate(value, args, where)
    if annotation is float and type(value) is int and abs(value) < LARGEST_FLOAT:
        return float(value)
    if type(value) is (origin or annotation):
        return value
    raise mismatch(value, TYPE_WORDS.get(annotation, getattr(annotation, "__name__", str(annotation))), where)


TYPE_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    NoneType: "none",
    tuple: "values in brackets",
}
"""How messages call the types of values."""
LARGEST_FLOAT = 10**300
"""Integers below it can be converted to a float; `float` raises `OverflowError` for much larger ones."""


@cache  # `isinstance` with a protocol takes 30 microseconds in Python 3.11, and a recipe has thousands of values
def _own_validate(annotation: Any) -> Callable[[Any, tuple[Any, ...], str], Any] | None:
    """Return the check of an annotated class that has its own, None for other annotations."""
    return annotation.validate if isinstance(annotation, SelfValidating) else None


def _in_range(value: Any, metadata: tuple[Any, ...], where: str) -> Any:
    """Return `value` if it is in all ranges of the annotation."""
    for wanted in metadata:
        if isinstance(wanted, Range) and value not in wanted:
            raise OutOfRangeError(f"must be {wanted}, got {value!r:.120}", where=where)
    return value


def _conform_union(value: Any, options: tuple[Any, ...], where: str) -> Any:
    errors = []
    for option in options:
        try:
            return coerce(value, option, where)
        except OutOfRangeError:  # the value has the type of this option
            raise
        except RecipeError as error:
            errors.append(error.message)
    raise RecipeError(_join_expectations(errors, f", got {value!r:.120}"), where=where)


def _join_expectations(messages: list[str], got: str) -> str:
    """Return the messages of `mismatch` as one, "expected A or B, got C", if they are all of the same value."""
    if not all(message.startswith("expected ") and message.endswith(got) for message in messages):
        return "; or ".join(messages)
    expected = " or ".join(message.removeprefix("expected ").removesuffix(got) for message in messages)
    return f"expected {expected}{got}"


def _conform_tuple(value: tuple[Any, ...], args: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if args and args[-1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        raise mismatch(value, f"{len(args)} values", where)
    return tuple(coerce(v, a, f"{where}.{i}") for i, (v, a) in enumerate(zip(value, args, strict=True)))


def mismatch(value: Any, expected: str, where: str) -> RecipeError:
    """Return the error for a value of the wrong type. expected: the expected type, as text."""
    return RecipeError(f"expected {expected}, got {value!r:.120}", where=where)
