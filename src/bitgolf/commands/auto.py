"""The recipe `auto` as a run: what is chosen, the folder, and the inputs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bitgolf.commands.auto_table import auto_table
from bitgolf.config.spec import Spec
from bitgolf.files import json_digest
from bitgolf.pipeline.auto_choice import AutoRequest, choose_for_run
from bitgolf.pipeline.execute import ExecutionOptions
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.pipeline.latest_run import RUNS_FOLDER
from bitgolf.recipes.auto import chosen_recipe
from bitgolf.recipes.choose import REFERENCE_SPEED, Choice
from bitgolf.recipes.identity import QUICK_SUFFIX
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.display import current_display
from bitgolf.report.wrapping import columns_of, line_width


class AutoRun(NamedTuple):
    """A run of the recipe `auto`: the recipe before edits of the user, its inputs, and its folder."""

    recipe: Spec[Recipe]
    given: GivenInputs
    folder: Path


def plan_auto_run(
    request: AutoRequest,
    given: GivenInputs,
    options: ExecutionOptions,
    *,
    edits: Sequence[str] = (),
    quick: bool = False,
    out: Path | None = None,
) -> AutoRun:
    """Choose the sizes of a run, or read those that its folder stores, and show them. Nothing is written.

    edits: the user's, which are not applied, but keep the folders of different recipes apart. The name of the folder has
    what was asked for, not what was chosen, so that the same command finds it again. The held-out tokens to score are
    those of the choice unless they are given. quick: the recipe becomes a toy, for which no speed is measured.
    """
    given.check(None)
    if quick and request.speed is None:
        request = request._replace(speed=REFERENCE_SPEED)
    folder = out or RUNS_FOLDER / _folder_name(request, given, edits, quick=quick)
    choice = choose_for_run(request, given, folder, options.device, options.processes)
    display = current_display()
    display.message(auto_table(choice, line_width(sys.stderr) - columns_of(display.clock())))
    tokens = given.score_tokens if given.score_tokens is not None or quick else choice.score_tokens
    return AutoRun(chosen_recipe(choice), given._replace(auto=choice, score_tokens=tokens), folder)


def _folder_name(request: AutoRequest, given: GivenInputs, edits: Sequence[str], *, quick: bool) -> str:
    name = f"auto{QUICK_SUFFIX if quick else ''}-{request.cap}-{request.seconds:g}s"
    edited = f"-{json_digest(list(edits))[:8]}" if edits else ""
    return f"{name}{edited}-s{given.seed or 0}{given.folder_suffix()}"


def chosen_for_show(request: AutoRequest, given: GivenInputs, device: str = "auto", processes: int = 1) -> Choice:
    """The choice that a new run of this request would make on this machine."""
    given.check(None)
    return choose_for_run(request, given, None, device, processes)
