"""The page of recipes: what `bitgolf recipes` lists, as tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bitgolf.recipes import describe, experiment_names, published_bpb, recipe_names
from reference_text import cell, code, table

HEAD = """# Recipes

`bitgolf show RECIPE` prints all settings of a recipe, its size, the results that its authors reported and the differences from their system. The published figures are the authors' own, mostly on FineWeb with eight H100 GPUs for ten minutes; none was measured with this library. [Equivalence](../equivalence.md) lists what was compared with the originals.
"""
EXPERIMENTS = """## Experiments

Variants of a recipe above, from the branch of pull request 1512, with the results of their authors. `bitgolf run` takes their names like those of recipes.
"""


def recipes_page() -> str:
    """Return the page: a table of recipes, and one of experiments."""
    return "\n\n".join([HEAD, recipe_table(recipe_names()), EXPERIMENTS, recipe_table(experiment_names())]) + "\n"


def recipe_table(names: Iterable[str]) -> str:
    return table(["recipe", "published bits per byte", "what it is"], list(recipe_rows(names)))


def recipe_rows(names: Iterable[str]) -> Iterator[list[str]]:
    for name in names:
        found = published_bpb(name)
        yield [code(name), f"{found[1]:.4f} {found[0]}" if found else "–", cell(describe(name))]
