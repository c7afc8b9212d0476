"""Parsing: recipes from their JSON form, and `PATH=VALUE` assignments from the command line."""

from __future__ import annotations

import ast
import math
from typing import Any, get_args

from bitgolf.config.registry import lookup
from bitgolf.config.spec import Spec, join_path, make_node, schema
from bitgolf.config.validate import coerce
from bitgolf.errors import RecipeError, error_location, quoted

MAX_VALUES, MAX_DEPTH = 10_000, 40  # of a recipe's JSON form


def from_json(value: Any) -> Spec[Any]:
    """Return the recipe that `Spec.to_json` wrote. Safe for untrusted input.

    Raises `RecipeError` for more than `MAX_VALUES` values, nesting deeper than `MAX_DEPTH`, a name that is not
    registered, or a value of the wrong type.
    """
    budget = [MAX_VALUES]
    node = _node(value, budget, 0, "")
    if not isinstance(node, Spec):
        raise RecipeError(f"a recipe must be a JSON object with the key 'part', got {str(value)[:80]}")
    return node


def _node(value: Any, budget: list[int], depth: int, path: str) -> Any:
    budget[0] -= 1
    if budget[0] < 0 or depth > MAX_DEPTH:
        raise RecipeError(f"the recipe is too large: more than {MAX_VALUES:,} values, or nested over {MAX_DEPTH} deep")
    if isinstance(value, list):
        return tuple(_node(v, budget, depth + 1, join_path(path, i)) for i, v in enumerate(value))
    if isinstance(value, dict) and "part" in value:
        kwargs = {k: _node(v, budget, depth + 1, join_path(path, k)) for k, v in value.items() if k != "part"}
        with error_location(path):
            return make_node(lookup(value["part"]), kwargs, path)
    if isinstance(value, dict):
        return {k: _node(v, budget, depth + 1, join_path(path, k)) for k, v in value.items()}
    return value


# ---- values from a command line --------------------------------------------------------------------------------


def apply_assignment(recipe: Spec[Any], assignment: str) -> Spec[Any]:
    """Return the recipe with one assignment `PATH=VALUE` applied.

    VALUE is a number, true, false, none, text, a tuple, or a part such as `SquaredLeakyReLU(slope=0.3)`. Raises
    `RecipeError` for an unknown path and for a value that does not fit the type of the argument.
    """
    path, equals, text = assignment.partition("=")
    if not equals:
        raise RecipeError(f"expected PATH=VALUE, got {quoted(repr(assignment))}")
    _ = recipe[path]
    parent_path, _, key = path.rpartition(".")
    parent = recipe[parent_path] if parent_path else recipe
    annotation = schema(parent.cls)[key][0] if isinstance(parent, Spec) else Any
    options = get_args(annotation)
    text_allowed = annotation is str or any(o is str or isinstance(o, str) for o in options)
    return recipe.set(path, coerce(_parse(text.strip(), text_allowed, path), annotation, path))


_LITERALS = {"true": True, "false": False, "none": None, "null": None, "True": True, "False": False, "None": None}


def _parse(text: str, text_allowed: bool, path: str) -> Any:
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        return text
    except (MemoryError, RecursionError, ValueError):  # nested too deeply, too long, or with a NUL character
        raise RecipeError(f"{quoted(repr(text))} cannot be parsed", hint="write a shorter value") from None
    if text_allowed and isinstance(tree, (ast.Name, ast.Attribute, ast.BinOp)) and text not in _LITERALS:
        return text
    return _value(tree, text, path)


def _value(tree: ast.expr, text: str, path: str) -> Any:
    match tree:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=word) if word in _LITERALS:
            return _LITERALS[word]
        case ast.Name(id="nan" | "inf" as word):
            return float(word)
        case ast.Name() | ast.Attribute():
            return make_node(lookup(ast.unparse(tree)), {}, path)
        case ast.Call(func=func, args=[], keywords=keywords):
            kwargs = {str(k.arg): _value(k.value, text, join_path(path, k.arg)) for k in keywords}
            return make_node(lookup(ast.unparse(func)), kwargs, path)
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_value(item, text, join_path(path, i)) for i, item in enumerate(items))
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
            return -math.inf
    raise RecipeError(
        f"{quoted(repr(text))} is not a number, a word, a tuple or a part", hint="write a part as Softcap(cap=15)"
    )
