"""The pages of parts: every class that a recipe may name, by package and by interface, from docstrings and signatures."""

from __future__ import annotations

import inspect
import re
import types
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from bitgolf.config.ranges import Range
from bitgolf.config.readable import readable
from bitgolf.config.registry import import_all_parts, in_package
from bitgolf.config.spec import Spec, schema
from reference_text import cell, code, escaped, table

PAGES = {
    "model": ("Parts of the model", ["model", "grids"]),
    "training": ("Training, optimizers and averages", ["training", "optim", "average"]),
    "text": ("Text, tokenizers and data", ["text", "tokens", "data"]),
    "quantize": ("Quantization and packing", ["quantize", "pack"]),
    "score": ("Scoring", ["score"]),
    "recipes": ("Recipes and sweeps", ["config", "recipes", "sweeps", "artifact"]),
}
"""Name of a page -> its title, and the packages whose parts it has."""
INTRODUCTION = """A part is a class that a recipe names. Its settings are written as keyword arguments, in a recipe and in `--set` and `--add`: `{example}`. [Techniques](../techniques.md) has the published techniques with their effects, and [parts of your own](../own_parts.md) shows how to write one. This page is generated from the docstrings of the package."""
EXAMPLES = {
    "model": "SquaredLeakyReLU(slope=0.3)",
    "training": "Muon(lr=0.02)",
    "text": "SentencePieceBPE(vocab=1024)",
    "quantize": "TrellisCodec(bits=4)",
    "score": "SlidingScoring(window=256, stride=64)",
    "recipes": "Rule(where='matrix', use=Muon())",
}
WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "none"}


def parts_pages() -> dict[str, str]:
    """Name of a page -> its Markdown."""
    return {f"parts_{name}": parts_page(name) for name in PAGES}


def parts_page(name: str) -> str:
    """Return a page: a section for each interface, with its parts in alphabetical order."""
    title, packages = PAGES[name]
    blocks = [f"# {title}", INTRODUCTION.format(example=EXAMPLES[name])]
    for kind, members in sorted(parts_by_kind(packages).items(), key=lambda item: item[0].__name__):
        blocks += list(section(kind, sorted(members, key=lambda cls: cls.__name__)))
    return "\n\n".join(blocks) + "\n"


@cache
def all_parts() -> tuple[type, ...]:
    """All registered classes of the package."""
    return tuple(cls for cls in import_all_parts().values() if in_package(cls))


@cache
def places() -> Mapping[type, list[str]]:
    """Class -> the settings that take a part of it, such as `Attention.qk`."""
    found = defaultdict[type, list[str]](list)
    for cls in all_parts():
        for setting, (annotation, _) in schema(cls).items():
            for wanted in parts_in(annotation):
                found[wanted].append(f"{cls.__name__}.{setting}")
    return found


def parts_in(annotation: Any) -> Iterator[type]:
    """The classes T of all `Spec[T]` in an annotation."""
    if get_origin(annotation) is Spec:
        yield from (wanted for wanted in get_args(annotation) if isinstance(wanted, type))
    else:
        for argument in get_args(annotation):
            yield from parts_in(argument)


def parts_by_kind(packages: list[str]) -> dict[type, list[type]]:
    """Interface -> the parts of the packages that implement it. A part without one is its own interface."""
    found = defaultdict[type, list[type]](list)
    for cls in all_parts():
        if cls.__module__.split(".")[1] in packages:
            found[kind_of(cls)].append(cls)
    return found


def kind_of(cls: type) -> type:
    """The interface of a part: the nearest base that a setting takes; otherwise its topmost base class in the package."""
    bases = [base for base in cls.__mro__[1:] if in_package(base) and base.__name__ != "Part"]
    topmost = [base for base in bases if not any(b in bases for b in base.__mro__[1:])]
    return next((base for base in bases if base in places()), topmost[0] if topmost else cls)


def section(kind: type, members: list[type]) -> Iterator[str]:
    """Heading and description of an interface, and its parts. The interface may be a part itself."""
    yield f"## {kind.__name__}"
    yield from entry(kind) if kind in members else [docstring(kind)]
    if places().get(kind):
        yield f"Used in: {', '.join(code(place) for place in places()[kind])}."
    for cls in members:
        if cls is not kind:
            yield f"### {cls.__name__}"
            yield from entry(cls)


def entry(cls: type) -> Iterator[str]:
    """Docstring, settings and module of a part."""
    yield docstring(cls)
    if rows := list(setting_rows(cls)):
        yield table(["setting", "value", "default"], rows)
    yield f"Defined in `{cls.__module__}`."


def docstring(cls: type) -> str:
    """The docstring as Markdown; descriptions of single settings become a list."""
    names = "|".join(map(re.escape, schema(cls))) or "(?!)"
    described = re.compile(rf"((?:{names})(?:, (?:{names}))*): (.*)")
    blocks = [""]
    for line in ((cls.__doc__ and inspect.cleandoc(cls.__doc__)) or "").splitlines():
        match = described.fullmatch(line)
        if match:
            blocks.append(f"- `{match[1]}`: {escaped(match[2])}")
        elif not line:
            blocks.append("")
        else:
            blocks[-1] = f"{blocks[-1]} {escaped(line)}".strip()
    return "\n\n".join(block for block in blocks if block)


def setting_rows(cls: type) -> Iterator[list[str]]:
    """A row for each setting: name, values that it takes, default."""
    for name, (annotation, default) in schema(cls).items():
        shown = "required" if default is inspect.Parameter.empty else code(readable(default))
        yield [code(name), value_text(annotation), shown]


def value_text(annotation: Any) -> str:
    """Words for the values that an annotation allows, as Markdown."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = [str(wanted) for wanted in arguments[1:] if isinstance(wanted, Range)]
        return cell(", ".join([value_text(arguments[0]), *limits]))
    if origin is Spec:
        return code(arguments[0].__name__) if isinstance(arguments[0], type) else "a part"
    if origin in (Union, types.UnionType):
        return " or ".join(value_text(option) for option in arguments)
    if origin is Literal:
        return " or ".join(code(readable(option)) for option in arguments)
    if origin is tuple:
        repeated = len(arguments) == 2 and arguments[1] is Ellipsis
        return f"tuple of {value_text(arguments[0])}" if repeated else f"({', '.join(map(value_text, arguments))})"
    return WORDS.get(
        annotation, "any value" if annotation is Any else code(getattr(annotation, "__name__", str(annotation)))
    )
