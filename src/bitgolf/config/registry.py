"""From names and text to nodes: the registry by name, recipes from JSON, values from a command line."""

from __future__ import annotations

import ast
import difflib
import importlib
import pkgutil
import re
from typing import Any, get_args

from bitgolf.config.spec import REGISTRY, Spec, conform, part, schema
from bitgolf.errors import RecipeError

ROOMS = (
    "text",
    "grids",
    "tokens",
    "optim",
    "average",
    "pack",
    "data",
    "model",
    "quantize",
    "train",
    "score",
    "artifact",
)
MODULES = ("config.recipe", "config.rules")

_NAME = re.compile(r"(?:[a-z_][a-z0-9_]*\.){1,4}[A-Z][A-Za-z0-9]*")


def lookup(name: str) -> type:
    """The registered class of that name. Only modules in the package's own rooms are imported."""
    if not isinstance(name, str) or len(name) > 120 or not _NAME.fullmatch(name):
        raise RecipeError(f"{str(name)[:80]!r} is not the name of a part")
    module, _, _ = name.rpartition(".")
    if name not in REGISTRY and (module in MODULES or module.split(".")[0] in ROOMS):
        try:
            importlib.import_module(f"bitgolf.{module}")
        except ModuleNotFoundError:
            raise RecipeError(f"{name!r} is not registered: there is no module {module!r}") from None
    if name not in REGISTRY:
        hint = difflib.get_close_matches(name, REGISTRY, 1)
        raise RecipeError(f"{name!r} is not a registered part", mend=f"did you mean {hint[0]}?" if hint else "")
    return REGISTRY[name]


def load_rooms() -> dict[str, type]:
    """Import every room, so that every part is known by name."""
    for room in ROOMS:
        try:
            package = importlib.import_module(f"bitgolf.{room}")
        except ModuleNotFoundError:
            continue
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    for module in MODULES:
        importlib.import_module(f"bitgolf.{module}")
    return REGISTRY


def from_json(value: Any, *, limit: int = 10_000) -> Spec[Any]:
    """The tree that `to_json` wrote. Untrusted input is fine: at most `limit` values, registered names, checked types."""
    budget = [limit]
    node = _node(value, budget, 0)
    if not isinstance(node, Spec):
        raise RecipeError("a recipe is a JSON object with a key 'part'")
    return node


def _node(value: Any, budget: list[int], depth: int) -> Any:
    budget[0] -= 1
    if budget[0] < 0 or depth > 40:
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


def set_text(recipe: Spec[Any], assignment: str) -> Spec[Any]:
    """Apply one `PATH=VALUE`. VALUE is a number, true, false, none, text, a tuple, or a part: `LeakySquared(slope=0.3)`."""
    path, equals, text = assignment.partition("=")
    if not equals:
        raise RecipeError(f"{assignment!r} is not PATH=VALUE")
    _ = recipe[path]
    parent_path, _, key = path.rpartition(".")
    parent = recipe[parent_path] if parent_path else recipe
    annotation = schema(parent.cls)[key][0] if isinstance(parent, Spec) else Any
    options = get_args(annotation)
    wants_text = annotation is str or any(o is str or isinstance(o, str) for o in options)
    return recipe.set(path, conform(_parse(text.strip(), wants_text), annotation, path))


_WORDS = {"true": True, "false": False, "none": None, "null": None, "True": True, "False": False, "None": None}


def _parse(text: str, wants_text: bool) -> Any:
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        return text
    if wants_text and isinstance(tree, (ast.Name, ast.Attribute, ast.BinOp)) and text not in _WORDS:
        return text
    return _value(tree, text)


def _value(tree: ast.expr, text: str) -> Any:
    match tree:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=word) if word in _WORDS:
            return _WORDS[word]
        case ast.Name() | ast.Attribute():
            return part(by_short_name(ast.unparse(tree)))
        case ast.Call(func=func, args=[], keywords=keywords):
            return part(by_short_name(ast.unparse(func)), **{str(k.arg): _value(k.value, text) for k in keywords})
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_value(item, text) for item in items)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
    raise RecipeError(
        f"{text!r} is neither a number, a word, a tuple nor a part", mend="parts look like Softcap(cap=15)"
    )


def by_short_name(name: str) -> type:
    """The registered class called `name`, by its short name or its full one."""
    load_rooms()
    if "." in name:
        return lookup(name)
    found = [cls for cls in REGISTRY.values() if cls.__name__ == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise RecipeError(f"{name!r} is ambiguous", mend=" or ".join(k for k in REGISTRY if k.endswith(f".{name}")))
    near = difflib.get_close_matches(name, [cls.__name__ for cls in REGISTRY.values()], 1)
    raise RecipeError(f"there is no part called {name!r}", mend=f"did you mean {near[0]}?" if near else "")
