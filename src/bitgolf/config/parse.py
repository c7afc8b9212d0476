"""From text to nodes: recipes from their JSON form, and values from a command line."""

from __future__ import annotations

import ast
from typing import Any, get_args

from bitgolf.config.registry import lookup
from bitgolf.config.spec import Spec, part, schema
from bitgolf.config.validate import coerce
from bitgolf.errors import RecipeError

MAX_VALUES, MAX_DEPTH = 10_000, 40  # of a recipe's JSON form


def from_json(value: Any) -> Spec[Any]:
    """The tree that `to_json` wrote. Untrusted input is fine: bounded size, registered names, checked types."""
    budget = [MAX_VALUES]
    node = _node(value, budget, 0)
    if not isinstance(node, Spec):
        raise RecipeError("a recipe is a JSON object with a key 'part'")
    return node


def _node(value: Any, budget: list[int], depth: int) -> Any:
    budget[0] -= 1
    if budget[0] < 0 or depth > MAX_DEPTH:
        raise RecipeError("the recipe is too large")
    if isinstance(value, list):
        return tuple(_node(v, budget, depth + 1) for v in value)
    if isinstance(value, dict) and "part" in value:
        kwargs = {k: _node(v, budget, depth + 1) for k, v in value.items() if k != "part"}
        return part(lookup(value["part"]), **kwargs)
    if isinstance(value, dict):
        return {k: _node(v, budget, depth + 1) for k, v in value.items()}
    return value


# ---- values from a command line --------------------------------------------------------------------------------


def apply_assignment(recipe: Spec[Any], assignment: str) -> Spec[Any]:
    """Apply one `PATH=VALUE`. VALUE is a number, true, false, none, text, a tuple, or a part: `SquaredLeakyReLU(slope=0.3)`."""
    path, equals, text = assignment.partition("=")
    if not equals:
        raise RecipeError(f"{assignment!r} is not PATH=VALUE")
    _ = recipe[path]
    parent_path, _, key = path.rpartition(".")
    parent = recipe[parent_path] if parent_path else recipe
    annotation = schema(parent.cls)[key][0] if isinstance(parent, Spec) else Any
    options = get_args(annotation)
    wants_text = annotation is str or any(o is str or isinstance(o, str) for o in options)
    return recipe.set(path, coerce(_parse(text.strip(), wants_text), annotation, path))


_LITERALS = {"true": True, "false": False, "none": None, "null": None, "True": True, "False": False, "None": None}


def _parse(text: str, wants_text: bool) -> Any:
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        return text
    if wants_text and isinstance(tree, (ast.Name, ast.Attribute, ast.BinOp)) and text not in _LITERALS:
        return text
    return _value(tree, text)


def _value(tree: ast.expr, text: str) -> Any:
    match tree:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=word) if word in _LITERALS:
            return _LITERALS[word]
        case ast.Name() | ast.Attribute():
            return part(lookup(ast.unparse(tree)))
        case ast.Call(func=func, args=[], keywords=keywords):
            return part(lookup(ast.unparse(func)), **{str(k.arg): _value(k.value, text) for k in keywords})
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_value(item, text) for item in items)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
    raise RecipeError(
        f"{text!r} is neither a number, a word, a tuple nor a part", hint="parts look like Softcap(cap=15)"
    )
