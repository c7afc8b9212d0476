"""The registry of parts: classes that a recipe may name. Class names are unique.

The JSON form of a recipe stores the class name only. Modules with parts are found by reading the source of the part
packages, without importing it. A name that the package does not have is looked for in the parts that the user's code
files have registered, then in the installed plugins. So a recipe from an untrusted file can import no other module.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import bitgolf
from bitgolf.config.plugins import Plugin, plugins
from bitgolf.errors import BitgolfError, RecipeError, quoted

C = TypeVar("C", bound=type)

REGISTRY: dict[str, type] = {}
"""Class name -> class, for the classes whose modules have been imported."""

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
    "training",
    "score",
    "recipes",
    "artifact",
    "sweeps",
)
"""The packages of `bitgolf` that are searched for registered classes."""

LONGEST_NAME = 120
UNKNOWN_PART = "there is no part called"
"""Start of the message for a name that no part has."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OLD_NAME = re.compile(r"(?:[a-z_][a-z0-9_]*\.)+([A-Z][A-Za-z0-9_]*)")
_REGISTERED = re.compile(r"^@register\n(?:@.*\n)*class (\w+)", re.MULTILINE)


def register(cls: C) -> C:
    """Class decorator: register a class under its name, so that recipes may name it.

    Raises `TypeError` if another class has that name: one that is registered, or any part of the package.
    """
    assert "part" not in inspect.signature(cls).parameters, f"{cls} has an argument 'part', the JSON key of the class"
    name = cls.__name__
    other = REGISTRY.get(name, cls)
    if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise TypeError(f"two parts are called {name}: one in {other.__module__}, one in {cls.__module__}")
    if not in_package(cls) and name in part_modules():
        raise TypeError(f"two parts are called {name}: one in {part_modules()[name]}, one in {cls.__module__}")
    REGISTRY[name] = cls
    return cls


def in_package(cls: type) -> bool:
    """Return whether a class is defined in this package, not by a code file or a plugin."""
    return cls.__module__.startswith(f"{bitgolf.__name__}.")


@contextmanager
def unregistered_on_error() -> Iterator[None]:
    """If the block raises, remove the parts of other modules than the package's that it registered."""
    before = set(REGISTRY)
    try:
        yield
    except BaseException:
        for name in [name for name, cls in REGISTRY.items() if name not in before and not in_package(cls)]:
            del REGISTRY[name]
        raise


def part_name(cls: type) -> str:
    """Return the name of a class in the JSON form."""
    return cls.__name__


@cache
def part_modules() -> dict[str, str]:
    """Return part name -> module name for all parts of the package, read from the source without importing it."""
    root = Path(bitgolf.__file__).parent
    files = (path for package in PART_PACKAGES for path in sorted((root / package).rglob("*.py")))
    return find_parts({_module_name(path, root): path.read_text(encoding="utf-8") for path in files})


def find_parts(sources: dict[str, str]) -> dict[str, str]:
    """Return class name -> module name for the classes decorated with `@register`.

    sources: module name -> source text. Raises `TypeError` if a name is registered twice.
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
    """Return the registered class of that name, importing its module if necessary, or plugins until one registers it.

    Raises `RecipeError` if there is none; the hint lists similar names, and the plugins that cannot be imported.
    """
    if not isinstance(name, str) or len(name) > LONGEST_NAME:
        raise RecipeError(f"{str(name)[:80]!r} is not the name of a part")
    if old := _OLD_NAME.fullmatch(name):
        raise RecipeError(
            f"{name!r} is a part name of an older format, which included the module",
            hint=f"make the file again with this version, or replace the name by {old[1]}",
        )
    if not _NAME.fullmatch(name):
        raise RecipeError(f"{name!r} is not the name of a part")
    if name not in REGISTRY and name in part_modules():
        importlib.import_module(part_modules()[name])
    return REGISTRY[name] if name in REGISTRY else _lookup_in_plugins(name)


def _lookup_in_plugins(name: str) -> type:
    """Return the class of that name that a plugin registers. Raises `RecipeError` if none does."""
    failures = import_plugins(until=lambda: name in REGISTRY)
    if name in REGISTRY:
        return REGISTRY[name]
    near = difflib.get_close_matches(name, {**part_modules(), **REGISTRY}, 3)
    advice = f"did you mean {' or '.join(near)}?" if near else "a part of your own: give its file with --code FILE"
    raise RecipeError(f"{UNKNOWN_PART} {name!r}", hint="; ".join([advice, *failures]))


def import_plugins(*, until: Callable[[], bool]) -> list[str]:
    """Import the plugins, one after the other until the condition holds.

    Returns messages about those that cannot be imported: they matter only if what is looked for is not found.
    """
    failures = list[str]()
    for plugin in plugins():
        if until():
            break
        try:
            import_plugin(plugin)
        except BitgolfError as error:
            failures.append(error.message)
    return failures


def import_plugin(plugin: Plugin) -> ModuleType:
    """Import the module of a plugin, which registers its parts. Raises `BitgolfError` if it cannot be imported."""
    try:
        with unregistered_on_error():
            return importlib.import_module(plugin.module)
    except (Exception, SystemExit) as error:
        cause = f"{type(error).__name__}: {error}"
        message = f"the plugin {plugin.name!r} of {plugin} cannot be imported ({quoted(cause)})"
        hint = f"upgrade or remove the distribution {plugin.distribution}"
        raise BitgolfError(message, where=plugin.module, hint=hint) from error


def import_all_parts() -> dict[str, type]:
    """Import every module that contains a part, and return the registry."""
    for module in part_modules().values():
        importlib.import_module(module)
    return REGISTRY
