"""Factors and their levels, as in the design of experiments: what a sweep changes, and to which values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from bitgolf.config.parse import apply_edit
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.recipes.recipe import Recipe


@register
class FactorLevel:
    """A value of a factor.

    name: unique in the sweep's factor. edits: of the recipe, in order, as `--set` and `--add` take them: `PATH=VALUE`
    replaces a value and `PATH+=PART` adds to a chain. recipe: takes the place of the sweep's recipe before the edits, for
    changes that are a function from recipe to recipe; None for that of the sweep.
    """

    def __init__(self, *, name: str, edits: tuple[str, ...] = (), recipe: Spec[Recipe] | None = None) -> None:
        if not name.strip():
            raise RecipeError("a level needs a name", where="name")
        self.name, self.edits, self.recipe = name, edits, recipe


@register
class Factor:
    """Something that a sweep varies: the recipe as it is, or one of the levels.

    Raises `RecipeError` if there is no level, or two have the same name.
    """

    def __init__(self, *, name: str, levels: tuple[Spec[FactorLevel], ...]) -> None:
        self.name, self.levels = name, [level() for level in levels]
        names = [level.name for level in self.levels]
        if not names or len(set(names)) < len(names):
            found = ", ".join(names) or "none"
            raise RecipeError(f"the factor {name} needs levels with different names, got {found}", where="levels")


class SweepVariant(NamedTuple):
    """A level for some of the factors, by their names, in the order of the factors. The others are as in the recipe."""

    levels: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The names of the levels, `base` for the recipe itself."""
        return ", ".join(level for _, level in self.levels) or "base"


BASE = SweepVariant()
"""The recipe of the sweep itself, which all variants are compared with."""


@contextmanager
def of_variant(name: str) -> Iterator[None]:
    """Let an error of the block say which variant it concerns."""
    try:
        yield
    except BitgolfError as error:
        error.where = f"variant {name}{error.where and ': '}{error.where}"
        raise


class SearchSpace:
    """All variants of a recipe. edits: applied to each, before those of the levels."""

    def __init__(self, recipe: Spec[Recipe], factors: Sequence[Factor], edits: Sequence[str] = ()) -> None:
        self.base, self.factors, self.edits = recipe, factors, edits
        names = [factor.name for factor in factors]
        if len(set(names)) < len(names):
            raise RecipeError(f"factors need different names, got {', '.join(names)}", where="factors")

    def variant(self, levels: dict[str, str]) -> SweepVariant:
        """The variant with these levels: factor -> level."""
        return SweepVariant(
            tuple((factor.name, levels[factor.name]) for factor in self.factors if factor.name in levels)
        )

    def recipe(self, variant: SweepVariant) -> Spec[Recipe]:
        """The recipe of a variant. Raises `RecipeError`, with the variant, for an edit that cannot be applied."""
        levels = [self._level(*named) for named in variant.levels]
        replaced = [level for level in levels if level.recipe is not None]
        if len(replaced) > 1:
            names = " and ".join(level.name for level in replaced)
            message = f"{names} each replace the whole recipe, so they cannot be combined"
            raise RecipeError(
                message, where=variant.name, hint="write the edits of one as PATH=VALUE, or use OneAtATime"
            )
        recipe = next((level.recipe for level in replaced if level.recipe), self.base)
        for edit in [*self.edits, *(edit for level in levels for edit in level.edits)]:
            with of_variant(variant.name):
                recipe = apply_edit(recipe, edit).recipe
        return recipe

    def _level(self, factor: str, level: str) -> FactorLevel:
        levels = next(known.levels for known in self.factors if known.name == factor)
        return next(known for known in levels if known.name == level)
