"""Every recipe at full shape runs in bounded memory: each eager step on fake tensors, against the memory of one GPU.

A compiled graph needs less memory than the eager step. A fused kernel is one operation here and makes no mask.
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
from bitgolf.training.kernels.parity import KernelTrial, ReplayModule, record_calls
from bitgolf.training.kernels.select import PARITY_TOKENS, kernel_candidates
from bitgolf.training.loss_module import LossModule
from bitgolf.training.part_usage import measure_part_usage
from bitgolf.training.settings import Train
from helpers.fake_execution import fake_tensors
from helpers.live_tensors import MemoryTracker
from helpers.recipe_cover import all_but_exhaustive
from helpers.scoring_steps import MIXED, ScoringCase, steps

ALIVE, LARGEST = 60e9, 8e9
"""Limits of live bytes of a step, and of its largest tensor, on a GPU of 80 GB that also holds weights and graphs."""


def sizes(name: str) -> tuple[int, ...]:
    """The sizes on which memory depends most: tokens of a row and of a micro batch, vocabulary, width, layers."""
    settings = get_recipe(name)()
    train, model = settings.train(), model_size(settings.model)
    return (
        train.length,
        (train.micro_rows or train.rows) * train.length,
        settings.tokens().vocab,
        model.dim,
        model.layers,
    )


def largest() -> list[str]:
    """For each size, a recipe in which it is the largest: `pr1855` or else the deepest one, where it is so in several."""
    names = ["pr1855", *sorted(recipe_names(), key=lambda name: -sizes(name)[-1])]
    return sorted({max(names, key=lambda name, i=i: sizes(name)[i]) for i in range(len(sizes(names[0])))})


@pytest.mark.slow
@pytest.mark.parametrize("name", all_but_exhaustive(largest()))
def test_a_recipe_starts_in_bounded_memory(name: str) -> None:
    """The usage probe, kernel selection, a batch of calibration, and a batch of scoring without adaptation."""
    recipe = get_recipe(name)
    for step in starting(recipe):
        check(step)
    for step in steps(recipe, recipe().tokens().vocab):
        check(step)
        break  # the other methods process batches of the same size


def adapting() -> Iterator[str]:
    """Recipes whose last scoring method adapts, without repetitions of the same model and method."""
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
    """All scoring methods of the recipe, adaptation included, with the rows of the recipe."""
    recipe = get_recipe(name)
    for step in steps(recipe, recipe().tokens().vocab):
        check(step)


def check(step: ScoringCase) -> None:
    with MemoryTracker() as live:
        step.run()
    assert 0 < live.peak_bytes < ALIVE, f"{step.name}: {live.peak_bytes / 1e9:.1f} GB are alive at once"
    assert live.largest_bytes < LARGEST, f"{step.name}: {live.largest}"


def starting(recipe: Spec[Recipe]) -> Iterator[ScoringCase]:
    """The steps that run before training, and calibration after it."""
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
    """For each kind of candidate: a parity check of the reference module with itself, and the inputs of a timing."""
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
