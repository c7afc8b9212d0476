"""Every recipe at full shape starts in bounded memory: each eager step, on fake tensors, beside what one card holds.

A compiled graph needs less than the same step eager. What fused kernels do is one operation here and makes no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec
from bitgolf.model.build import model_size
from bitgolf.quantize.calibration.observe import TOKENS_PER_FORWARD, observe
from bitgolf.quantize.calibration.sources import DEFAULT_MAX_LENGTH
from bitgolf.recipes import get_recipe, recipe_names
from bitgolf.recipes.recipe import Recipe
from bitgolf.train.kernels.parity import KernelTrial, ReplayModule, record_calls
from bitgolf.train.kernels.select import PARITY_TOKENS, kernel_candidates
from bitgolf.train.loss_module import LossModule
from bitgolf.train.part_usage import measure_part_usage
from bitgolf.train.settings import Train
from helpers.fake_execution import fake_tensors
from helpers.live_tensors import MemoryTracker
from helpers.recipe_cover import Traits, all_but_exhaustive, covering_recipes
from helpers.scoring_steps import MIXED, ScoringCase, steps

ALIVE, LARGEST = 60e9, 8e9
"""Bytes that a step may have alive at once, and of its largest tensor: on a card of 80 GB, beside weights and graphs."""


def sizes(recipe: Spec[Recipe]) -> Traits:
    """What memory depends on first: the length of rows, the vocabulary, the width."""
    settings = recipe()
    return {
        ("length", settings.train().length),
        ("vocabulary", settings.tokens().vocab),
        ("width", model_size(settings.model).dim),
    }


@pytest.mark.parametrize("name", all_but_exhaustive(covering_recipes(sizes, first=["pr1855"])))
def test_a_recipe_starts_in_bounded_memory(name: str) -> None:
    """The probe of what parts touch, the choice of kernels, a batch of calibration, a batch of plain scoring."""
    recipe = get_recipe(name)
    for step in starting(recipe):
        check(step)
    for step in steps(recipe, recipe().tokens().vocab):
        check(step)
        break  # others than the first method are read in blocks of the same size


def adapting() -> Iterator[str]:
    """Recipes whose last method adapts; those with the same model and method once."""
    seen = set[str]()
    for name in recipe_names():
        recipe = get_recipe(name)
        key = str((recipe().model.to_json(), recipe().score[-1].to_json()))
        if recipe().score[-1]().adapts and key not in seen:
            seen.add(key)
            yield name


@pytest.mark.exhaustive  # tests/score/test_memory.py takes one
@pytest.mark.parametrize("name", list(adapting()))
def test_a_recipe_is_scored_in_bounded_memory(name: str) -> None:
    """All of its methods, and learning where they adapt, with as many rows as the recipe has."""
    recipe = get_recipe(name)
    for step in steps(recipe, recipe().tokens().vocab):
        check(step)


def check(step: ScoringCase) -> None:
    with MemoryTracker() as live:
        step.run()
    assert 0 < live.peak_bytes < ALIVE, f"{step.name}: {live.peak_bytes / 1e9:.1f} GB are alive at once"
    assert live.largest_bytes < LARGEST, f"{step.name}: {live.largest}"


def starting(recipe: Spec[Recipe]) -> Iterator[ScoringCase]:
    """What happens before training, and after it once."""
    settings: Train = recipe().train()
    rows, length = settings.micro_rows or settings.rows, settings.length
    with fake_tensors():
        context = BuildContext(vocab=recipe().tokens().vocab)
        task = LossModule(
            recipe().model(context), settings.objective(context._replace(dim=model_size(recipe().model).dim))
        )
        yield ScoringCase("probe", lambda: _probe(task, recipe, rows, length))
        yield ScoringCase("choice of kernels", lambda: _choice(task, rows, length))
        if recipe().calibrate:
            yield ScoringCase("calibration", lambda: _calibration(task, length))


def _probe(task: LossModule, recipe: Spec[Recipe], rows: int, length: int) -> None:
    ids = torch.zeros(rows, length, dtype=torch.int64)
    with MIXED.autocast():
        measure_part_usage(task, recipe().model, ids[:1], ids[:1])


def _choice(task: LossModule, rows: int, length: int) -> None:
    """Each kind of part that has a fast twin: the plain one in context of both on a slice, and the inputs of a timing."""
    ids = torch.zeros(rows, length, dtype=torch.int64)
    found, trial = list(kernel_candidates(task, compiled=False)), KernelTrial(MIXED, compiled=False, backward=True)
    calls = record_calls(task, [site.recorded for site in found], MIXED, [ids[:1, :PARITY_TOKENS]] * 2)
    kinds = {(site.label, calls[site.recorded].signature): site for site in found if site.recorded in calls}
    for site in kinds.values():
        call = calls[site.recorded]
        plain: Callable[..., Any] = ReplayModule(site.reference)
        trial.max_relative_error(plain, plain, site.reference, call)
        trial.clone_inputs(site.reference, call.tiled_to(ids))


def _calibration(task: LossModule, length: int) -> None:
    length = min(length, DEFAULT_MAX_LENGTH)
    observe(task.model, [torch.zeros(TOKENS_PER_FORWARD // length, length, dtype=torch.int64)], autocast=MIXED.autocast)
