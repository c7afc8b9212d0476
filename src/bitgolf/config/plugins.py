"""Plugins: installed distributions with entry points in the group `bitgolf`. Listing them imports none.

[project.entry-points.bitgolf]
something = "bitgolf_something"                    # a module; importing it registers parts
my_recipe = "bitgolf_something.recipes:my_recipe"  # a function that returns a recipe named `my_recipe`
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "bitgolf"


class Plugin(NamedTuple):
    """An entry point: its name, the module and the attribute in it ("" for a module alone), and its distribution."""

    name: str
    module: str
    attribute: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def plugins() -> tuple[Plugin, ...]:
    """Return all plugins, sorted by name."""
    return _plugins_on(tuple(sys.path))


@cache
def _plugins_on(path: tuple[str, ...]) -> tuple[Plugin, ...]:
    """Return the plugins on a search path of modules, which is `sys.path`."""
    from importlib.metadata import entry_points  # takes 50 ms, which most commands need not wait for

    return tuple(sorted({_plugin(entry) for entry in entry_points(group=GROUP)}))


def _plugin(entry: EntryPoint) -> Plugin:
    module, _, attribute = (word.strip() for word in entry.value.partition(":"))
    about = entry.dist
    return Plugin(
        entry.name, module, attribute, str(about.name if about else "?"), str(about.version if about else "?")
    )


def plugin_of_module(module: str) -> Plugin | None:
    """Return the plugin that a module belongs to: its module contains this one, or has the same top-level package."""
    package = module.partition(".")[0]
    found = [plugin for plugin in plugins() if plugin.module.partition(".")[0] == package]
    containing = [plugin for plugin in found if f"{module}.".startswith(f"{plugin.module}.")]
    return max(containing or found, key=lambda plugin: len(plugin.module), default=None)


def recipe_plugins() -> dict[str, Plugin]:
    """Return the plugins that are recipes, by the name of the recipe. Of several of one name, the first is returned."""
    return {plugin.name: plugin for plugin in reversed(plugins()) if plugin.attribute}
