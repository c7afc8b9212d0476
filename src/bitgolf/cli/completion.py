"""What the shell offers after TAB. Nothing here imports torch: a list must be there in a fraction of a second.

Paths of settings are read from the files of a run or a stored recipe. For a recipe by name, which only Python can build,
they are read from the signatures of the classes that every recipe has, as far as annotations name a class.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

STAGES = ("prepare", "train", "average", "calibrate", "quantize", "pack", "score", "report")
DEVICES = ("auto", "cuda", "mps", "cpu")
ORDERS = ("corpus", "shuffled", "longest")
TOKENIZERS = ("sentencepiece", "caseops", "bytes")
PACKAGE = Path(__file__).parents[1]
MOST_FOLDERS = 200


def complete_recipe(incomplete: str) -> list[tuple[str, str]]:
    """Recipes by name with their description, `latest`, and files and folders that may hold one."""
    from bitgolf.recipes import describe, experiment_names, recipe_names

    names = [name for name in (*recipe_names(), *experiment_names()) if name.startswith(incomplete)]
    return [*((name, describe(name)) for name in names), *_runs_and_files(incomplete, ".json")]


def complete_artifact(incomplete: str) -> list[tuple[str, str]]:
    """`latest`, runs, and artifacts."""
    return _runs_and_files(incomplete, ".bg")


def complete_run(incomplete: str) -> list[tuple[str, str]]:
    """`latest` and runs."""
    return _runs_and_files(incomplete, "")


def one_of(*words: str) -> Callable[[str], list[str]]:
    """Return a function that offers those of some words that begin like what was typed."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def _runs_and_files(incomplete: str, suffix: str) -> list[tuple[str, str]]:
    """`latest`, the folders below runs/, folders that begin like the given path, and files with the suffix."""
    found = [("latest", "the newest run below runs/")] if "latest".startswith(incomplete) else []
    if "/" not in incomplete:
        from bitgolf.pipeline.latest_run import RUNS_FOLDER

        runs = sorted(RUNS_FOLDER.glob("*/recipe.json"))[:MOST_FOLDERS]
        found += [(str(run.parent), "run") for run in runs if str(run.parent).startswith(incomplete)]
    if "/" in incomplete or incomplete.startswith("."):
        folder = Path(incomplete if incomplete.endswith("/") else Path(incomplete).parent)
        entries = sorted(folder.iterdir())[:MOST_FOLDERS] if folder.is_dir() else []
        for entry in entries:
            named = f"{entry}/" if entry.is_dir() else str(entry)
            if named.startswith(incomplete) and (entry.is_dir() or (suffix and entry.suffix == suffix)):
                found.append((named, ""))
    return found


def complete_method(incomplete: str) -> list[str]:
    """Scoring methods by name, and `adapt`."""
    sources = (path.read_text(encoding="utf-8") for path in (PACKAGE / "score").rglob("*.py"))
    found = (re.findall(r'^class \w+\((\w+)\)|^    name = "(\w+)"$', source, re.MULTILINE) for source in sources)
    bases = ((base, name) for pairs in found for (base, _), (_, name) in pairwise(pairs))
    names = {name for base, name in bases if name and base.startswith(("Scoring", "Sliding"))}
    return [name for name in sorted(names | {"adapt"}) if name.startswith(incomplete)]


def complete_setting(context: typer.Context, incomplete: str) -> list[str]:
    """`PATH=` for --set, and after it the names of parts."""
    return _complete_edit(context, incomplete, setting_paths)


def complete_chain(context: typer.Context, incomplete: str) -> list[str]:
    """`PATH=` of chains for --add, and after it the names of parts."""
    return _complete_edit(context, incomplete, chain_paths)


def _complete_edit(context: typer.Context, incomplete: str, paths_of: Any) -> list[str]:
    from bitgolf.config.registry import part_modules

    path, equals, value = incomplete.partition("=")
    if equals:
        return [f"{path}={name}" for name in sorted(part_modules()) if value and name.startswith(value)]
    return [f"{found}=" for found in paths_of(_given_recipe(context)) if found.startswith(path)]


def _given_recipe(context: typer.Context) -> str:
    """The argument RECIPE. Before the value of an option is complete, arguments are not assigned to their names."""
    from bitgolf.pipeline.latest_run import latest_run

    given = context.params.get("recipe") or context.params.get("a") or next(iter(context.args), "")
    return str(latest_run()) if given == "latest" else str(given)


# ---- paths of settings ---------------------------------------------------------------------------------------------


def setting_paths(recipe: str) -> list[str]:
    """Paths of the settings of a recipe: all of a stored one, else those that every recipe has."""
    return [path for path, _ in _stored_paths(recipe) or _common_paths()]


def chain_paths(recipe: str) -> list[str]:
    """Those of `setting_paths` that are chains."""
    return [path for path, is_chain in _stored_paths(recipe) or _common_paths() if is_chain]


def _stored_paths(recipe: str) -> list[tuple[str, bool]]:
    """(path, whether it is a chain) for each setting of a JSON file or of the recipe of a run; none if it is neither."""
    file = Path(recipe) / "recipe.json" if (Path(recipe) / "recipe.json").is_file() else Path(recipe)
    if not recipe or file.suffix != ".json":
        return []
    try:
        return list(_paths_of_json(json.loads(file.read_bytes()), ""))
    except (OSError, ValueError, RecursionError):
        return []


def _paths_of_json(value: Any, path: str) -> Iterator[tuple[str, bool]]:
    if path:
        yield path, isinstance(value, list)
    if isinstance(value, dict) and "part" in value:
        for key, item in value.items():
            if key not in ("part", "digest", "published"):
                yield from _paths_of_json(item, f"{path}.{key}" if path else key)
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for i, item in enumerate(value):
            yield from _paths_of_json(item, f"{path}.{i}")


@cache
def _common_paths() -> list[tuple[str, bool]]:
    """(path, whether it is a chain) for the settings that every recipe has, read from signatures."""
    return list(_paths_of_class("Recipe", ""))


def _paths_of_class(name: str, path: str) -> Iterator[tuple[str, bool]]:
    """The arguments of a registered class, and those of the registered classes that their annotations name."""
    from bitgolf.config.registry import part_modules

    if name not in part_modules():
        return
    file = PACKAGE.joinpath(*part_modules()[name].split(".")[1:]).with_suffix(".py")
    for argument, annotation in _arguments(file, name):
        below = f"{path}.{argument}" if path else argument
        if below == "published":
            continue
        yield below, annotation.startswith("tuple[Spec")
        if match := re.match(r"Spec\[(\w+)\]", annotation):
            yield from _paths_of_class(match[1], below)


def _arguments(file: Path, name: str) -> Iterator[tuple[str, str]]:
    """(name, annotation) of each keyword-only argument of a class's constructor, read from its source."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    for argument in method.args.kwonlyargs:
                        yield argument.arg, ast.unparse(argument.annotation) if argument.annotation else ""
