"""Values written on a command line: numbers, true, false, none, words, tuples, and parts as `Softcap(cap=15)`.

The annotation of an argument decides what a word means: text, or the name of a part. A chain of parts may be written as
one part without the comma of a tuple.
"""

from __future__ import annotations

import ast
import difflib
import math
import re
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from bitgolf.config.registry import UNKNOWN_PART, import_all_parts, lookup, part_modules
from bitgolf.config.spec import Spec, join_path, make_node, schema
from bitgolf.config.validate import TYPE_WORDS, coerce, mismatch
from bitgolf.errors import RecipeError, quoted

LITERALS = {"true": True, "false": False, "none": None, "null": None, "True": True, "False": False, "None": None}
MOST_LISTED_PARTS = 8


def parse_value(text: str, annotation: Any, path: str) -> Any:
    """Return the value that `text` stands for, in the type of the annotation.

    path: the path of the setting, for messages. Raises `RecipeError` for a value that does not fit; its hint lists the
    parts that do, if a part is expected.
    """
    text = text.strip()
    try:
        return coerce(_parse(text, annotation, path), annotation, path)
    except RecipeError as error:
        unknown = not error.hint or error.message.startswith(UNKNOWN_PART)
        if unknown and error.where in ("", path, f"{path}.0") and (fitting := parts_that_fit(annotation)):
            error.hint = _suggest_parts(text, fitting)
        if re.fullmatch(r"\d{1,3}(,\d{3})+", text):
            error.hint = f"write {text.replace(',', '_')}: a comma separates the values of a tuple"
        raise


def _parse(text: str, annotation: Any, path: str) -> Any:
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        if _accepts_parts(annotation) and "(" in text:
            message = f"{quoted(repr(text))} is no part: brackets, quotes or commas do not match"
            raise RecipeError(message, where=path, hint="write a part as Softcap(cap=15)") from None
        return text
    except (MemoryError, RecursionError, ValueError):  # nested too deeply, too long, or with a NUL character
        raise RecipeError(f"{quoted(repr(text))} cannot be parsed", hint="write a shorter value") from None
    if options(annotation) == [str] and not _is_quoted(tree):
        return text
    return _value(tree, annotation, text, path)


def _is_quoted(tree: ast.expr) -> bool:
    return isinstance(tree, ast.Constant) and isinstance(tree.value, str)


def _value(tree: ast.expr, annotation: Any, source: str, path: str) -> Any:
    """Return the value of an expression within `source`. A single value for a chain becomes a chain of one."""
    if isinstance(tree, ast.Tuple | ast.List):
        inner = item_annotation(annotation)
        return tuple(_value(item, inner, source, join_path(path, i)) for i, item in enumerate(tree.elts))
    value = _single_value(tree, annotation, source, path)
    chain = [option for option in options(annotation) if option is not NoneType]
    return (value,) if value is not None and len(chain) == 1 and _is_chain(chain[0]) else value


def _single_value(tree: ast.expr, annotation: Any, source: str, path: str) -> Any:
    match tree:
        case ast.Constant(value=float() as number) if float not in options(annotation) and number.is_integer():
            return int(number)  # 16e6 bytes
        case ast.Constant(value=value):
            return value
        case ast.Name(id=word) if word in LITERALS:
            return LITERALS[word]
        case ast.Name(id="nan" | "inf" as word):
            return float(word)
        case ast.Name() | ast.Attribute() | ast.BinOp() if _accepts_text(annotation):
            return ast.get_source_segment(source, tree) or source
        case ast.Name(id=word) if not _accepts_parts(annotation) and word not in part_modules():
            raise mismatch(word, _expected(annotation), path)
        case ast.Name() | ast.Attribute():
            return make_node(lookup(ast.unparse(tree)), {}, path)
        case ast.Call(func=func):
            return _part(lookup(ast.unparse(func)), tree, source, path)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
            return -math.inf
    hint = "write a part as Softcap(cap=15)"
    raise RecipeError(f"{quoted(repr(source))} is not a number, a word, a tuple or a part", where=path, hint=hint)


def _part(cls: type, call: ast.Call, source: str, path: str) -> Spec[Any]:
    """Return the node of a call with keyword arguments. Raises `RecipeError` for arguments without a name."""
    known = schema(cls)
    if call.args:
        values = [ast.unparse(value) for value in call.args]
        named = [f"{key}={value}" for key, value in zip(known, values, strict=False)]
        hint = f"write {cls.__name__}({', '.join(named)})" if len(named) == len(values) else ""
        raise RecipeError(f"{cls.__name__} takes its arguments by name", where=path, hint=hint)
    kwargs = {}
    for keyword in call.keywords:
        key = str(keyword.arg)
        annotation = known[key][0] if key in known else Any
        kwargs[key] = _value(keyword.value, annotation, source, join_path(path, key))
    return make_node(cls, kwargs, path)


# ---- annotations ---------------------------------------------------------------------------------------------------


def options(annotation: Any) -> list[Any]:
    """Return the types that an annotation accepts: members of unions, without metadata of `Annotated`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return options(args[0])
    if origin in (Union, UnionType):
        return [option for arg in args for option in options(arg)]
    return [annotation]


def _is_chain(option: Any) -> bool:
    return get_origin(option) is tuple and get_args(option)[-1:] == (Ellipsis,)


def item_annotation(annotation: Any) -> Any:
    """Return the annotation of the items of a chain, `Any` for everything else."""
    chains = [option for option in options(annotation) if _is_chain(option)]
    return get_args(chains[0])[0] if chains else Any


def _accepts_text(annotation: Any) -> bool:
    accepted = [option for whole in options(annotation) for option in (whole, *options(item_annotation(whole)))]
    return any(option is str or get_origin(option) is Literal for option in accepted)


def _part_types(annotation: Any) -> list[Any]:
    """Return X for each `Spec[X]` that an annotation accepts, also as an item of a chain."""
    accepted = [option for whole in options(annotation) for option in (whole, *options(item_annotation(whole)))]
    return [get_args(option)[0] for option in accepted if get_origin(option) is Spec]


def _accepts_parts(annotation: Any) -> bool:
    return Any in options(annotation) or bool(_part_types(annotation))


def _expected(annotation: Any) -> str:
    return " or ".join(
        TYPE_WORDS.get(option, getattr(option, "__name__", str(option))) for option in options(annotation)
    )


def parts_that_fit(annotation: Any) -> list[str]:
    """Return the names of all parts that an annotation accepts, sorted; none if it does not say which."""
    wanted = [get_origin(kind) or kind for kind in _part_types(annotation) if not isinstance(kind, TypeVar)]
    classes = tuple(cls for cls in wanted if isinstance(cls, type))
    if not classes:
        return []
    return sorted(name for name, cls in import_all_parts().items() if issubclass(cls, classes))


def _suggest_parts(text: str, fitting: list[str]) -> str:
    """Return a hint with the parts that fit, those with the names most like `text` first."""
    if fitting == ["Rule"]:
        return "write Rule(where=ROLE, use=PART); --set PATH.0.use=PART changes the part of the first rule"
    word = text.partition("(")[0].strip("'\" ").lower()
    alike = sorted(fitting, key=lambda name: -difflib.SequenceMatcher(None, word, name.lower()).ratio())
    more = f" and {len(fitting) - MOST_LISTED_PARTS} more" if len(fitting) > MOST_LISTED_PARTS else ""
    return f"parts that fit: {', '.join(alike[:MOST_LISTED_PARTS])}{more}"
