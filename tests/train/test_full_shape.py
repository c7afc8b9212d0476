"""Every recipe at full shape starts in bounded memory: each eager step, on fake tensors, beside what one card holds.

A compiled graph needs less than the same step eager. What fused kernels do is one operation here and makes no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from bitgolf.config.build_context import Place
from bitgolf.config.spec import Spec
from bitgolf.quantize.calibration.observe import PIECE, observe
from bitgolf.quantize.calibration.sources import AS_TRAINED
from bitgolf.recipes import get, names
from bitgolf.recipes.recipe import Recipe
from bitgolf.train.kernels.parity import Replay, Trial, record
from bitgolf.train.kernels.select import PARITY_TOKENS, sites
from bitgolf.train.loss_module import Task
from bitgolf.train.part_usage import touched
from bitgolf.train.settings import Train
from helpers.fake_execution import full_shape
from helpers.live_tensors import LiveTensors
from helpers.scoring_steps import MIXED, Step, steps

ALIVE, LARGEST = 60e9, 8e9
"""Bytes that a step may have alive at once, and of its largest tensor: on a card of 80 GB, beside weights and graphs."""


def shapes() -> Iterator[Any]:
    """All recipes; of those with rows, vocabularies and widths of the same size, all but one are left to `make test-all`."""
    seen = set[tuple[int, ...]]()
    for name in names():
        recipe = get(name)
        key = (recipe["train.length"], recipe["tokens.vocab"], recipe["model.dim"])
        yield pytest.param(name, marks=[pytest.mark.exhaustive] if key in seen and name != "pr1855" else [])
        seen.add(key)


@pytest.mark.parametrize("name", list(shapes()))
def test_a_recipe_starts_in_bounded_memory(name: str) -> None:
    """The probe of what parts touch, the choice of kernels, a batch of calibration, a batch of plain scoring."""
    recipe = get(name)
    for step in starting(recipe):
        check(step)
    for step in steps(recipe, recipe["tokens.vocab"]):
        check(step)
        break  # others than the first method are read in blocks of the same size


def adapting() -> Iterator[str]:
    """Recipes whose last method adapts; those with the same model and method once."""
    seen = set[str]()
    for name in names():
        recipe = get(name)
        key = str((recipe["model"].to_json(), recipe["score"][-1].to_json()))
        if recipe["score"][-1]().adapts and key not in seen:
            seen.add(key)
            yield name


@pytest.mark.exhaustive  # tests/score/test_memory.py takes one
@pytest.mark.parametrize("name", list(adapting()))
def test_a_recipe_is_scored_in_bounded_memory(name: str) -> None:
    """All of its methods, and learning where they adapt, with as many rows as the recipe has."""
    recipe = get(name)
    for step in steps(recipe, recipe["tokens.vocab"]):
        check(step)


def check(step: Step) -> None:
    with LiveTensors() as live:
        step.run()
    assert 0 < live.peak_bytes < ALIVE, f"{step.name}: {live.peak_bytes / 1e9:.1f} GB are alive at once"
    assert live.largest_bytes < LARGEST, f"{step.name}: {live.largest}"


def starting(recipe: Spec[Recipe]) -> Iterator[Step]:
    """What happens before training, and after it once."""
    settings: Train = recipe["train"]()
    rows, length = settings.micro_rows or settings.rows, settings.length
    with full_shape():
        place = Place(vocab=recipe["tokens.vocab"])
        task = Task(recipe["model"](place), settings.objective(place._replace(dim=recipe["model.dim"])))
        yield Step("probe", lambda: _probe(task, recipe, rows, length))
        yield Step("choice of kernels", lambda: _choice(task, rows, length))
        if recipe["calibrate"]:
            yield Step("calibration", lambda: _calibration(task, length))


def _probe(task: Task, recipe: Spec[Recipe], rows: int, length: int) -> None:
    ids = torch.zeros(rows, length, dtype=torch.int64)
    with MIXED.autocast():
        touched(task, recipe["model"], ids[:1], ids[:1])


def _choice(task: Task, rows: int, length: int) -> None:
    """Each kind of part that has a fast twin: the plain one in place of both on a slice, and the inputs of a timing."""
    ids = torch.zeros(rows, length, dtype=torch.int64)
    found, trial = list(sites(task, compiled=False)), Trial(MIXED, compiled=False, backward=True)
    calls = record(task, [site.probe for site in found], MIXED, [ids[:1, :PARITY_TOKENS]] * 2)
    kinds = {(site.what, calls[site.probe].form): site for site in found if site.probe in calls}
    for site in kinds.values():
        call = calls[site.probe]
        plain: Callable[..., Any] = Replay(site.plain)
        trial.difference(plain, plain, site.plain, call)
        trial.leaves(site.plain, call.enlarged(ids))


def _calibration(task: Task, length: int) -> None:
    length = min(length, AS_TRAINED)
    observe(task.model, [torch.zeros(PIECE // length, length, dtype=torch.int64)], autocast=MIXED.autocast)
