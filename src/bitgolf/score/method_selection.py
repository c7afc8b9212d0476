"""Which methods to score with: those of a recipe, or others by name, and edits of both."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Sequence

from bitgolf import score
from bitgolf.config.parse import apply_assignment
from bitgolf.config.registry import REGISTRY
from bitgolf.config.spec import Spec, part
from bitgolf.errors import UsageError
from bitgolf.score.methods import ScoringMethod

ADAPT_ALIAS, DEFAULT_ADAPTIVE_METHOD = (
    "adapt",
    "lora",
)  # the word for all that adapt, and what it means where a recipe has none
WINDOW_SETTINGS = (
    "window",
    "stride",
    "isolated",
    "stretch",
)  # how a text is read: what a method by name takes from the recipe


def methods_by_name() -> dict[str, type[ScoringMethod]]:
    """Every method of the package, by the name that results call it."""
    for module in pkgutil.walk_packages(score.__path__, f"{score.__name__}."):
        importlib.import_module(module.name)
    found = [cls for cls in REGISTRY.values() if issubclass(cls, ScoringMethod)]
    return {cls.name: cls for cls in sorted(found, key=lambda cls: cls.name)}


def select_methods(
    recipe_methods: Sequence[Spec[ScoringMethod]], names: Sequence[str], edits: Sequence[str]
) -> list[Spec[ScoringMethod]]:
    """The recipe's own methods where no name is given; edits (`PATH=VALUE`) then apply to each that has the setting.

    A name stands for the recipe's methods of that name, or else for the method with its defaults, reading as the
    recipe's last does. `adapt` stands for all of the recipe's that adapt, or else for the low-rank adapters.
    """
    chosen = [method for name in names for method in _named(recipe_methods, name)] if names else list(recipe_methods)
    for edit in edits:
        chosen = _edited(chosen, edit)
    return chosen


def _named(own: Sequence[Spec[ScoringMethod]], name: str) -> list[Spec[ScoringMethod]]:
    if name == ADAPT_ALIAS:
        return [spec for spec in own if spec().adapts] or _named(own, DEFAULT_ADAPTIVE_METHOD)
    if found := [spec for spec in own if spec().name == name]:
        return found
    if name not in (methods := methods_by_name()):
        raise UsageError(f"there is no method {name!r}", hint=f"--with {', '.join(methods)} or {ADAPT_ALIAS}")
    return [_with_windows_of(part(methods[name]), own[-1])]


def _with_windows_of(spec: Spec[ScoringMethod], other: Spec[ScoringMethod]) -> Spec[ScoringMethod]:
    """This method, and the methods within it, with the other's windows."""
    reads = next((node.kwargs for _, node in _methods(other) if "window" in node.kwargs), {})
    for path, node in _methods(spec):
        for key in [key for key in WINDOW_SETTINGS if key in reads and key in node.kwargs]:
            spec = spec.set(f"{path}.{key}" if path else key, reads[key])
    return spec


def _methods(spec: Spec[ScoringMethod]) -> list[tuple[str, Spec[ScoringMethod]]]:
    return [
        (path, node) for path, node in spec.walk() if isinstance(node.cls, type) and issubclass(node.cls, ScoringMethod)
    ]


def _edited(methods: Sequence[Spec[ScoringMethod]], edit: str) -> list[Spec[ScoringMethod]]:
    setting = re.split("[.=]", edit, maxsplit=1)[0]
    if not any(setting in method.kwargs for method in methods):
        settings = sorted({key for method in methods for key in method.kwargs})
        raise UsageError(f"no method here has the setting {setting!r}", hint=f"--set with {', '.join(settings)}")
    return [apply_assignment(method, edit) if setting in method.kwargs else method for method in methods]
