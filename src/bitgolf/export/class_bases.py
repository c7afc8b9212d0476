"""From which classes of other packages a class of the package is derived, found by reading the source."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import bitgolf
from bitgolf.export.imports import Imported, imported_names
from bitgolf.export.walk import walk

PACKAGE = bitgolf.__name__

PLAIN_BASES = frozenset(
    ["typing.NamedTuple", "typing.Protocol", "typing.Generic", "abc.ABC", "msgspec.Struct", "enum.Enum", "enum.IntEnum"]
)
"""Classes that call no methods of classes derived from them, except special methods."""
TORCH_METHODS = frozenset(["forward", "backward", "setup_context", "reset_parameters", "train", "extra_repr"])
"""Methods that torch calls by these names."""


@cache
def module_files() -> dict[str, Path]:
    """Return module name -> file for all modules of the package."""
    root = Path(bitgolf.__file__).parent
    found = dict[str, Path]()
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join([PACKAGE, *parts[: -1 if parts[-1] == "__init__" else None]])] = path
    return found


@cache
def module_text(name: str) -> str:
    """Return the source of a module."""
    return module_files()[name].read_text(encoding="utf-8")


@cache
def module_tree(name: str) -> ast.Module:
    """Return the parsed source of a module. The tree is shared: do not change it."""
    return ast.parse(module_text(name))


@cache
def _module_names(name: str) -> dict[str, Imported | ast.ClassDef]:
    """Return the imported names and the classes of a module."""
    found = dict[str, Imported | ast.ClassDef]()
    for node in walk(module_tree(name)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.update(imported_names(node))
        elif isinstance(node, ast.ClassDef):
            found[node.name] = node
    return found


@cache
def foreign_bases(module: str, name: str) -> frozenset[str]:
    """Return the full names of all classes outside the package, other than `object`, that a class is derived from.

    A class that is a dataclass has `dataclass` among them.
    """
    names = _module_names(module)
    node = names.get(name)
    if isinstance(node, Imported):
        whole = f"{node.module}.{node.attribute}".rstrip(".")
        return foreign_bases(node.module, node.attribute) if node.module in module_files() else frozenset([whole])
    if node is None:
        return frozenset([f"builtins.{name}"])
    found = set[str]()
    for base in node.bases:
        found |= _of_base(module, base.value if isinstance(base, ast.Subscript) else base)
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        found.add("dataclass")
    return frozenset(found)


def _of_base(module: str, base: ast.expr) -> frozenset[str]:
    if isinstance(base, ast.Name):
        return foreign_bases(module, base.id)
    owner, _, attribute = ast.unparse(base).rpartition(".")
    names = _module_names(module)
    first = names.get(owner.split(".")[0])
    if isinstance(first, Imported):
        whole = f"{first.module}.{first.attribute}".rstrip(".")
        return foreign_bases(whole, attribute) if whole in module_files() else frozenset([f"{whole}.{attribute}"])
    return frozenset([f"{owner}.{attribute}"])


def is_called_by_base(module: str, name: str, method: str) -> bool:
    """Return whether a class of another package, from which a class is derived, may call a method by its name."""
    if method.startswith("__") and method.endswith("__"):
        return True
    bases = foreign_bases(module, name) - PLAIN_BASES - {"dataclass"}
    if any(base.startswith("torch.") for base in bases) and method in TORCH_METHODS:
        return True
    return any(not base.startswith(("torch.", "builtins.")) for base in bases)
