"""The sweeps of this package: each can be run, at toy size too, and none has the name of a recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitgolf.config.parse import from_json
from bitgolf.config.spec import Spec
from bitgolf.optim.muon_transforms import RowBlockSplit
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.quantize.calibration.sources import TrainingText
from bitgolf.recipes import has_recipe, quick
from bitgolf.recipes.identity import training_key
from bitgolf.recipes.time_limit import calibration_reserve, training_time_limit
from bitgolf.sweeps.driver import SweepInputs, check_sweep, run_sweep
from bitgolf.sweeps.factors import BASE
from bitgolf.sweeps.load import describe_sweep, get_sweep, load_sweep, sweep_names
from bitgolf.sweeps.quick import quick_sweep
from bitgolf.sweeps.sweep import Sweep
from helpers import damage
from helpers.command_line import run_command
from helpers.toy_sweeps import executed_stages


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
    built = sweep()
    first = built.search.next_round(built.space, ())
    for recipe in (built.recipe(variant) for variant in (first.variants if first else ())):
        training_time_limit(recipe, calibration_reserve(recipe) or 0.0)  # raises if the reserve takes the whole clock
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


# ---- each sweep is run ---------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`--quick` makes models of width 32 with 300 pieces, and batches of two rows of 32 tokens."""
    sizes = {"QUICK_DIM": 32, "QUICK_VOCAB": 300, "QUICK_ROWS": 2, "QUICK_LENGTH": 32, "QUICK_TEXT_BYTES": 30_000}
    for name, size in sizes.items():
        monkeypatch.setattr(quick, name, size)
    monkeypatch.setitem(quick.AT_MOST, TrainingText, {"batches": 2, "rows": 2, "length": 32})
    monkeypatch.setitem(quick.AT_MOST, RowBlockSplit, {"rows": 8})
    yield


def tiny_sweep(name: str) -> Spec[Sweep]:
    """A sweep of this package at the smallest size, a step for each training."""
    return quick_sweep(get_sweep(name)).replace(seeds=(42,), steps=1)


def tiny_inputs(score_tokens: int) -> SweepInputs:
    return SweepInputs(GivenInputs([Path(damage.toy_source()[2])], score_tokens=score_tokens))


@pytest.mark.slow
def test_every_variant_is_trained_and_packed(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All sweeps in one, since they have the same base; without scores."""
    names = [name for name in sweep_names() if name != "gptq_calibration_grid"]
    base = tiny_sweep("gptq_calibration")
    factors = [factor.replace(name=name + factor["name"]) for name in names for factor in tiny_sweep(name)["factors"]]
    summary = run_sweep(base.replace(factors=tuple(factors)), tiny_inputs(0), tmp_path / "all")
    assert len(summary.variants) == 1 + 10 + 3 + 2 + 2
    for row in summary.variants:
        assert row.bytes and not row.stopped, f"{row.name}: {row.stopped}"
    stages = executed_stages(tmp_path / "all")
    assert stages["train"] == 1 + 10, "the variants of GPTQ have the training of the base"
    assert stages["quantize"] == 1 + 10 + 3 + 2, "at toy size, all variants calibrate on two batches"
    assert "note: Hessians of 8 x 64 batches is the same recipe as base" in capsys.readouterr().err


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", sweep_names())
def test_a_sweep_runs_to_its_table(name: str, tiny: None, tmp_path: Path) -> None:
    """Whole: all stages with scores, and all combinations of the grid."""
    summary = run_sweep(tiny_sweep(name), tiny_inputs(300), tmp_path / name)
    assert all(row.mean and not row.stopped for row in summary.variants)
    assert len(summary.variants) == len({row.name for row in summary.variants}) > 1
