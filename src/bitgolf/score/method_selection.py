"""Select the scoring methods of a command: those of the recipe, or others by name, with edits applied."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Sequence

from bitgolf import score
from bitgolf.config.parse import apply_assignment
from bitgolf.config.registry import REGISTRY, import_plugins
from bitgolf.config.spec import Spec, part
from bitgolf.errors import UsageError
from bitgolf.score.methods import ScoringMethod

ADAPT_ALIAS, DEFAULT_ADAPTIVE_METHOD = "adapt", "lora"
"""A name for all methods of the recipe that adapt, and the method that it selects if the recipe has none."""
WINDOW_SETTINGS = "window", "stride", "isolated", "rope_scaling"
"""Settings that a method selected by name takes over from the recipe's last method."""


def methods_by_name() -> dict[str, type[ScoringMethod]]:
    """All scoring methods of the package, of loaded code files and of imported plugins by `name`, sorted.

    Raises `UsageError` if two methods have the same name.
    """
    for module in pkgutil.walk_packages(score.__path__, f"{score.__name__}."):
        importlib.import_module(module.name)
    found = dict[str, type[ScoringMethod]]()
    for cls in sorted((c for c in REGISTRY.values() if issubclass(c, ScoringMethod)), key=lambda cls: cls.name):
        if other := found.get(cls.name):
            classes = f"{other.__name__} of {other.__module__} and {cls.__name__} of {cls.__module__}"
            raise UsageError(f"two scoring methods are called {cls.name!r}: {classes}", hint="rename one of them")
        found[cls.name] = cls
    return found


def _method_named(name: str) -> type[ScoringMethod]:
    """The scoring method of a name; plugins are imported if no other method has it. Raises `UsageError` for no method."""
    failures = import_plugins(until=lambda: name in methods_by_name())
    if name not in (methods := methods_by_name()):
        known = f"--with {', '.join(methods)} or {ADAPT_ALIAS}"
        raise UsageError(f"there is no method {name!r}", hint="; ".join([known, *failures]))
    return methods[name]


def select_methods(
    recipe_methods: Sequence[Spec[ScoringMethod]], names: Sequence[str], edits: Sequence[str]
) -> list[Spec[ScoringMethod]]:
    """The methods of the given names, or all methods of the recipe if there are no names, with edits applied.

    A name selects the recipe's methods of that name. If the recipe has none, it selects the method with its defaults
    and the window settings of the recipe's last method. `adapt` selects all methods of the recipe that adapt; if there
    are none, `lora`. An edit (`PATH=VALUE`) applies to every selected method that has the setting.
    Raises `UsageError` for an unknown name, or a setting that no selected method has.
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
    return [_with_windows_of(part(_method_named(name)), own[-1])]


def _with_windows_of(spec: Spec[ScoringMethod], other: Spec[ScoringMethod]) -> Spec[ScoringMethod]:
    """`spec`, nested methods included, with the window settings of `other`."""
    settings_of_other = next((node.kwargs for _, node in _methods(other) if "window" in node.kwargs), {})
    for path, node in _methods(spec):
        for key in [key for key in WINDOW_SETTINGS if key in settings_of_other and key in node.kwargs]:
            spec = spec.set(f"{path}.{key}" if path else key, settings_of_other[key])
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
