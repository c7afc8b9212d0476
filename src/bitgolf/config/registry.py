"""The registry of parts: a class by its name, which is unique in the package and all that a recipe's JSON says of it.

The modules that hold a part are found by reading the source of the part packages, not by importing it. A recipe from
an untrusted file can therefore import nothing but those modules.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from functools import cache
from pathlib import Path
from typing import TypeVar

import bitgolf
from bitgolf.errors import RecipeError

C = TypeVar("C", bound=type)

REGISTRY: dict[str, type] = {}
"""Every class that was registered so far, by its name."""

PART_PACKAGES = (
    "config",
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
    "recipes",
    "artifact",
)
"""The packages whose parts a recipe may name."""

LONGEST_NAME = 120
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OLD_NAME = re.compile(r"(?:[a-z_][a-z0-9_]*\.)+([A-Z][A-Za-z0-9_]*)")
_REGISTERED = re.compile(r"^@register\n(?:@.*\n)*class (\w+)", re.MULTILINE)


def register(cls: C) -> C:
    """Make a class nameable in a recipe's JSON form, by its name alone.

    Raises `TypeError` where another class was registered under that name, and names both modules.
    """
    assert "part" not in inspect.signature(cls).parameters, f"{cls}: the JSON form keeps the class under that name"
    name = cls.__name__
    other = REGISTRY.get(name, cls)
    if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise TypeError(f"two parts are called {name}: one in {other.__module__}, one in {cls.__module__}")
    REGISTRY[name] = cls
    return cls


def part_name(cls: type) -> str:
    """What a class is called in the JSON form."""
    return cls.__name__


@cache
def part_modules() -> dict[str, str]:
    """The module of every part of the package by the part's name, from the source: nothing is imported."""
    root = Path(bitgolf.__file__).parent
    files = (path for package in PART_PACKAGES for path in sorted((root / package).rglob("*.py")))
    return find_parts({_module_name(path, root): path.read_text(encoding="utf-8") for path in files})


def find_parts(sources: dict[str, str]) -> dict[str, str]:
    """The module by the name of each class that is decorated with `@register`, from the source by module.

    Raises `TypeError` where two modules register one name.
    """
    found: dict[str, str] = {}
    for module, source in sources.items():
        for name in _REGISTERED.findall(source):
            if name in found:
                raise TypeError(f"two parts are called {name}: one in {found[name]}, one in {module}")
            found[name] = module
    return found


def _module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join([root.name, *parts[: -1 if parts[-1] == "__init__" else None]])


def lookup(name: object) -> type:
    """The registered class of that name; its module is imported where that has not happened yet.

    Raises `RecipeError` for anything else, with the nearest names.
    """
    if not isinstance(name, str) or len(name) > LONGEST_NAME:
        raise RecipeError(f"{str(name)[:80]!r} is not the name of a part")
    if old := _OLD_NAME.fullmatch(name):
        raise RecipeError(
            f"{name!r} is the name of a part in an older format, with its module",
            hint=f"make the file again with this version, or write {old[1]}",
        )
    if not _NAME.fullmatch(name):
        raise RecipeError(f"{name!r} is not the name of a part")
    if name not in REGISTRY and name in part_modules():
        importlib.import_module(part_modules()[name])
    if name not in REGISTRY:
        near = difflib.get_close_matches(name, {**part_modules(), **REGISTRY}, 3)
        raise RecipeError(
            f"there is no part called {name!r}", hint=f"did you mean {' or '.join(near)}?" if near else ""
        )
    return REGISTRY[name]


def import_all_parts() -> dict[str, type]:
    """Import every module that holds a part; returns the registry."""
    for module in part_modules().values():
        importlib.import_module(module)
    return REGISTRY
