"""Paths in a recipe for the errors of constructors, which do not know where in a recipe their part is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bitgolf.config.spec import Spec, join_path
from bitgolf.errors import BitgolfError, RecipeError


def node_path(recipe: Spec[Any], node: Spec[Any]) -> str | None:
    """Return the path of a node in a recipe: of the same object if it is there, otherwise of an equal one, or None."""
    paths = list(recipe.walk())
    same = [path for path, found in paths if found is node] or [path for path, found in paths if found == node]
    return same[0] if same else None


@contextmanager
def constructor_errors_at(recipe: Spec[Any]) -> Iterator[None]:
    """Let an error of a constructor name the path of its node in `recipe`, and of the setting if it names one.

    Raises `RecipeError` for an exception that is not ours, such as a `TypeError` in a constructor that a user wrote.
    """
    try:
        yield
    except (OSError, MemoryError):  # of the machine, not of the recipe
        raise
    except Exception as error:
        node = error.__dict__.get("failed_node")
        path = node_path(recipe, node) if node else None
        if node is None or path is None:
            raise
        if isinstance(error, BitgolfError):
            setting = error.where.rpartition(".")[2]
            error.where = join_path(path, setting) if setting in node.kwargs else path or error.where
            raise
        message = f"{node.name} cannot be built ({type(error).__name__}: {error})"
        raise RecipeError(message, where=path, hint="--debug shows the traceback") from error
