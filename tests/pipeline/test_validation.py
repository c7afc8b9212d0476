"""Validation of a run: the referee's score of the weights, for any number of processes, without effect on the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bitgolf.average.ema import EMA
from bitgolf.config.spec import Spec, part
from bitgolf.errors import CorruptFileError, RecipeError, Stopped
from bitgolf.pipeline.execute import ExecutionOptions, run_recipe
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.pipeline.result import RunResult
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.pipeline.validation import contiguous_method
from bitgolf.recipes.check import check_recipe
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.events import read_events, validation_rows
from bitgolf.score.methods import ContiguousScoring, SlidingScoring
from bitgolf.training.checkpoint import load_latest
from bitgolf.training.validation import Validation
from helpers.toy_run import run_toy, scalable_recipe
from helpers.toy_training import make_data, same


def validated(**settings: Any) -> Spec[Recipe]:
    return scalable_recipe().set("train.validation", part(Validation, **{"tokens": 0, "every_steps": 3, **settings}))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("shards") / "data")


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run that is scored on all held-out targets after steps 3, 6 and 8."""
    return run_toy(tmp_path_factory.mktemp("finished") / "run", validated(), shards)


def test_the_last_score_is_that_of_the_stage_score(finished: RunResult) -> None:
    steps, last = [row.step for row in finished.validation], finished.validation[-1]
    assert steps == [3, 6, 8] and last.bpb == pytest.approx(finished.bpb["trained"], abs=1e-6)
    assert last.targets == finished.methods[0].targets and last.weights == "trained"
    assert last.loss == pytest.approx(last.bpb * 0.693147 * finished.methods[0].bytes / last.targets, rel=1e-5)
    assert all(row.bpb > last.bpb for row in finished.validation[:-1])


def test_a_run_without_it_has_the_same_artifact(finished: RunResult, shards: Path, tmp_path: Path) -> None:
    plain = run_toy(tmp_path / "run", scalable_recipe(), shards)
    files = RunFiles(tmp_path / "run"), RunFiles(Path(finished.run))
    assert files[0].artifact.read_bytes() == files[1].artifact.read_bytes()
    states = [load_latest(each.checkpoints) for each in files]
    assert states[0] and states[1] and same(states[0].tensors, states[1].tensors)
    assert plain.validation == [] and plain.hash != finished.hash


def test_the_log_and_the_page_have_the_scores(finished: RunResult) -> None:
    events = read_events(RunFiles(Path(finished.run)).log).events
    assert validation_rows(events) == finished.validation
    lines = (Path(finished.run) / "run.log").read_text()
    assert "held-out targets; its time is not on the training clock" in lines
    assert f"validation {finished.validation[0].bpb:.4f} bpb after step 3 (trained weights, " in lines


def test_several_processes_share_the_targets(finished: RunResult, shards: Path, tmp_path: Path) -> None:
    """The value is that of one process: weights differ by the rounding of sums of gradients alone."""
    given, options = GivenInputs(shards=shards, seed=0), ExecutionOptions(processes=2)
    result = run_recipe(validated(every_steps=4), given, options, out=tmp_path / "run")
    assert [row.step for row in result.validation] == [4, 8]
    last, of_one = result.validation[-1], finished.validation[-1]
    assert last.targets == of_one.targets and last.bpb == pytest.approx(of_one.bpb, abs=1e-4)
    assert last.bpb == pytest.approx(result.bpb["trained"], abs=1e-6)


def test_the_average_and_a_part_of_the_targets(shards: Path, tmp_path: Path) -> None:
    recipe = validated(tokens=100, weights="averaged").set("average", part(EMA, decay=0.5))
    result = run_toy(tmp_path / "run", recipe, shards)
    assert {(row.weights, row.targets) for row in result.validation} == {("averaged", 100)}


def test_averaged_weights_need_an_average() -> None:
    recipe = validated(weights="averaged").set("average", None)
    with pytest.raises(RecipeError, match=r"train.validation.weights.*no average"):
        check_recipe(recipe)


def test_an_observer_sees_the_scores_and_may_stop_the_run(shards: Path, tmp_path: Path) -> None:
    def gate(event: dict[str, Any]) -> str | None:
        return f"{event['bpb']:.1f} bpb is too much" if event["event"] == "validation" else None

    with pytest.raises(Stopped, match=r"after step 3: .* bpb is too much"):
        run_recipe(validated(), GivenInputs(shards=shards, seed=0), out=tmp_path / "run", observers=[gate])


def test_damaged_validation_shards_are_found_before_training(shards: Path, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")

    def damage(event: dict[str, Any]) -> None:
        if event["event"] == "stage" and event["stage"] == "train":
            (data / "val_000000.bin").write_bytes(b"other")

    with pytest.raises(CorruptFileError, match="val_000000"):
        run_recipe(validated(), GivenInputs(shards=data, seed=0), out=tmp_path / "run", observers=[damage])
    assert not any(event["event"] == "step" for event in read_events(RunFiles(tmp_path / "run").log).events)


def test_windows_do_not_overlap() -> None:
    recipe = scalable_recipe()
    sliding = contiguous_method(recipe.set("score", (part(SlidingScoring, window=48, stride=8, isolated=True),)))
    assert isinstance(sliding, ContiguousScoring) and (sliding.window, sliding.stride, sliding.isolated) == (
        48,
        48,
        True,
    )
    assert contiguous_method(recipe).window == recipe["score.0"]["window"]


def test_the_setting_leaves_the_hash_of_other_recipes_as_it_was() -> None:
    recipe = scalable_recipe()
    assert "validation" not in recipe.to_json()["train"] and recipe["train.validation"] is None
    assert "validation" in validated().to_json()["train"]
