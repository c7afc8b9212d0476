"""The sweeps of this package: each can be run, at toy size too, and none has the name of a recipe."""

from __future__ import annotations

import json

import pytest

from bitgolf.config.parse import from_json
from bitgolf.recipes import has_recipe
from bitgolf.recipes.identity import training_key
from bitgolf.sweeps.driver import check_sweep
from bitgolf.sweeps.factors import BASE
from bitgolf.sweeps.load import describe_sweep, get_sweep, load_sweep, sweep_names
from bitgolf.sweeps.quick import quick_sweep
from helpers.command_line import run_command


def test_the_names_are_not_those_of_recipes() -> None:
    assert len(sweep_names()) == 8
    for name in sweep_names():
        assert not has_recipe(name) and describe_sweep(name).endswith("."), name
        assert get_sweep(name)["name"] == name and load_sweep(name) == get_sweep(name)
    listed = run_command("sweep", "--list")
    assert listed.returncode == 0 and all(name in listed.stdout for name in sweep_names())
    assert json.loads(run_command("sweep", "--list", "--json").stdout).keys() == set(sweep_names())
    assert run_command("sweep").returncode == 2 and run_command("sweep", "x", "--list").returncode == 2


@pytest.mark.parametrize("name", sweep_names())
def test_every_variant_can_be_built_at_toy_size(name: str) -> None:
    sweep = quick_sweep(get_sweep(name))
    check_sweep(sweep)
    assert sweep["recipe"]["name"].endswith("-quick")
    recipes = [level["recipe"] for factor in sweep["factors"] for level in factor["levels"] if level["recipe"]]
    assert all(recipe["name"].endswith("-quick") for recipe in recipes)


@pytest.mark.parametrize("name", sweep_names())
def test_a_sweep_survives_its_json_form_and_its_variants_differ(name: str) -> None:
    sweep = get_sweep(name)
    assert from_json(json.loads(json.dumps(sweep.to_json()))) == sweep
    built = sweep()
    first = built.search.next_round(built.space, ())
    assert first and first.variants[0] == BASE
    recipes = {built.recipe(variant).replace(name="", published=None).hash for variant in first.variants}
    assert len(recipes) == len(first.variants)


def test_the_variants_of_gptq_share_one_training() -> None:
    built = get_sweep("gptq_calibration_grid")()
    first = built.search.next_round(built.space, ())
    assert first and len(first.variants) == 1 + 3 * 2 * 2
    keys = {json.dumps(training_key(built.recipe(variant))) for variant in first.variants}
    assert len(keys) == 1
