"""The stage `calibrate` in a run at toy size, and what a recipe may say of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bitgolf import stages
from bitgolf.average.ema import Ema
from bitgolf.errors import BitgolfError, DamagedError, RecipeError, UsageError
from bitgolf.files import read_json
from bitgolf.journal import Journal
from bitgolf.pipeline import Run, execute
from bitgolf.quantize.calibrate import (
    Calibrate,
    check,
    distinct,
    load_calibration,
    save_calibration,
)
from bitgolf.quantize.codec import IntRows
from bitgolf.quantize.codes import load_codes
from bitgolf.quantize.gptq import Gptq
from bitgolf.quantize.samples import OwnSamples, Source, TrainingText
from bitgolf.recipe import Recipe, as_trained
from bitgolf.spec import Spec, part
from bitgolf.train import worker as train_worker
from toy import toy_recipe
from toy_training import make_data

SOURCES: dict[str, Spec[Source]] = {
    "text": part(TrainingText, batches=3, rows=2),
    "samples": part(OwnSamples, sequences=3, length=0, rows=2),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


# ---- what a recipe may say ---------------------------------------------------------------------------------------

SMALL = part(Calibrate, source=part(TrainingText, batches=2, rows=2))


def calibrated(steps: int = 4) -> Spec[Recipe]:
    """A toy recipe with GPTQ, and what that needs."""
    recipe = toy_recipe(steps=steps).set("proof", None).set("calibrate", SMALL)
    return recipe.set("quantize.1.use", part(IntRows, bits=3, solve=part(Gptq)))


def test_calibration_is_there_where_it_is_asked_for_and_nowhere_else() -> None:
    check(calibrated(), 2)
    check(toy_recipe())
    with pytest.raises(RecipeError, match=r"quantize.1.use: its codec asks for calibration.*\n.*--set 'calibrate=Cal"):
        check(calibrated().set("calibrate", None))
    with pytest.raises(RecipeError, match="calibrate: no codec asks for calibration, so it would do nothing"):
        check(toy_recipe().set("calibrate", SMALL))
    with pytest.raises(RecipeError, match=r"average.ema.Ema is no calibration"):
        check(calibrated().set("calibrate", part(Ema, decay=0.9)))
    with pytest.raises(UsageError, match="3 processes cannot share 2 batches"):
        check(calibrated(), 3)
    with pytest.raises(RecipeError, match="of 5 s of training 5 s are reserved"):
        check(calibrated().set("train.seconds", 5.0).set("calibrate.reserve", 5.0))


def test_a_reserve_shortens_a_limit_of_time_only() -> None:
    recipe = calibrated().set("calibrate.reserve", 4.0)
    assert as_trained(recipe) == recipe, "a limit of steps"
    assert as_trained(recipe.set("train.seconds", 90.0))["train.seconds"] == 86.0
    assert as_trained(recipe.set("train.seconds", 90.0).set("calibrate", None))["train.seconds"] == 90.0
    run = Run(recipe.set("train.seconds", 90.0), Path(), Journal(quiet=True))
    assert run.slice("train")[0]["seconds"] == 86.0, "and so a reserve is a reason to train again"


def test_training_ends_early_by_the_reserve(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop and the schedules see the shortened time."""
    seen: list[float] = []

    def no_training(trainer: Any, *rest: Any, **more: Any) -> None:
        seen.append(trainer.settings.seconds)
        raise BitgolfError("enough")

    monkeypatch.setattr(train_worker.loop, "train", no_training)
    recipe = calibrated().set("train.seconds", 90.0).set("calibrate.reserve", 4.0)
    with pytest.raises(BitgolfError, match="enough"):
        train_worker.train_run(recipe, data, tmp_path, seed=0, resume=False, journal=Journal(quiet=True))
    assert seen == [86.0]


# ---- the stage ---------------------------------------------------------------------------------------------------


@pytest.fixture
def no_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run ends once its artifact is written."""

    def stop(run: Run) -> dict[str, Any]:
        raise BitgolfError("it is packed")

    monkeypatch.setattr(stages, "score", stop)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def ran(recipe: Spec[Recipe], folder: Path, data: Path, first: str | None = None) -> dict[str, dict[str, Any]]:
    """What the stages up to `pack` left."""
    journal = Journal(folder, quiet=True)
    try:
        with pytest.raises(BitgolfError, match="it is packed"):
            execute(Run(recipe, folder, journal, shards=data), first=first)
    finally:
        journal.close()
    return read_json(folder / "stages.json")


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [event for event in found if event["event"] == kind]


def weights(folder: Path) -> Tensor:
    codes = load_codes(folder / "codes" / "codes.safetensors")
    return torch.from_numpy(codes["blocks.0.mlp.up.weight"]["codes"])


@pytest.mark.usefixtures("no_scoring")
def test_a_run_calibrates_between_averaging_and_quantizing(data: Path, tmp_path: Path) -> None:
    done = ran(calibrated(), tmp_path, data)
    assert list(done) == ["prepare", "train", "average", "calibrate", "quantize", "pack"]
    known = load_calibration(tmp_path / "calibration.safetensors")
    stage = done["calibrate"]
    assert stage["source"] == "quantize.samples.TrainingText" and stage["tokens"] == 2 * 2 * 32
    assert (stage["matrices"], stage["hessians"], stage["processes"]) == (len(known), distinct(known), 1)
    assert stage["clock"]["total"] == pytest.approx(stage["clock"]["train"] + stage["clock"]["calibrate"], abs=0.02)
    assert 0 < stage["clock"]["calibrate"] <= stage["seconds"] + 0.01 and stage["clock"]["limit"] == 0
    (event,) = events(tmp_path, "calibration")
    assert event.items() >= {k: stage[k] for k in ("source", "tokens", "matrices", "hessians", "processes")}.items()
    assert "calibrated on 128 tokens" in (tmp_path / "run.log").read_text()
    assert not events(tmp_path, "warning") or "over the limit" not in str(events(tmp_path, "warning"))


@pytest.mark.usefixtures("no_scoring")
def test_what_is_done_again_when_calibration_changes(data: Path, tmp_path: Path) -> None:
    """Its settings: all from there on, and no training. Its file: quantization. Its statistics decide the codes."""
    recipe = calibrated()
    first, codes = ran(recipe, tmp_path, data), weights(tmp_path)
    assert ran(recipe, tmp_path, data) == first
    again = ran(recipe.set("calibrate.source", part(OwnSamples, sequences=2, length=0)), tmp_path, data)
    assert again["average"] == first["average"] and again["calibrate"]["key"] != first["calibrate"]["key"]
    assert not torch.equal(weights(tmp_path), codes), "other statistics, other codes"
    ran(recipe, tmp_path, data)
    assert torch.equal(weights(tmp_path), codes), "and back"
    path = tmp_path / "calibration.safetensors"
    save_calibration(
        path, {k: s._replace(hessian=torch.eye(len(s.hessian))) for k, s in load_calibration(path).items()}
    )
    other = ran(recipe, tmp_path, data)
    assert other["calibrate"] == ran(recipe, tmp_path, data)["calibrate"]
    assert other["quantize"]["key"] != first["quantize"]["key"] and not torch.equal(weights(tmp_path), codes)
    path.unlink()
    with pytest.raises(DamagedError, match="the file is missing"):
        execute(Run(recipe, tmp_path, Journal(quiet=True), shards=data))


@pytest.mark.usefixtures("no_scoring")
def test_without_calibration_the_stage_passes(data: Path, tmp_path: Path) -> None:
    done = ran(toy_recipe(steps=2), tmp_path, data)
    assert done["calibrate"]["source"] == "none" and done["calibrate"]["clock"]["calibrate"] == 0
    assert not (tmp_path / "calibration.safetensors").exists()
    again = calibrated(steps=2).set("train.seconds", 0.0)
    assert ran(again, tmp_path, data)["train"] == done["train"], "calibration can be had later, without training"


@pytest.mark.usefixtures("no_scoring")
def test_over_the_training_clock_is_said_aloud(data: Path, tmp_path: Path) -> None:
    recipe = calibrated().set("train.seconds", 0.02).set("train.steps", 1000)
    clock = ran(recipe, tmp_path, data)["calibrate"]["clock"]
    assert clock["total"] > clock["limit"] == 0.02
    (warning,) = [e for e in events(tmp_path, "warning") if "over the limit" in e["message"]]
    assert all(f"{clock[k]} s" in warning["message"] and warning[k] == clock[k] for k in clock)


def test_a_recipe_that_would_fail_later_fails_before_training(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the recipe has none"):
        execute(Run(calibrated().set("calibrate", None), tmp_path, Journal(quiet=True), shards=data))
    assert not (tmp_path / "stages.json").exists()


# ---- the validation text -----------------------------------------------------------------------------------------

OPENED: list[str] = []
WATCHING = [False]


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The files that Python opens meanwhile, by name."""
    if not WATCHING[0]:
        sys.addaudithook(lambda kind, args: OPENED.append(Path(str(args[0])).name) if kind == "open" and WATCHING[0] else None)  # fmt: skip
    OPENED.clear()
    WATCHING[0] = True
    yield OPENED
    WATCHING[0] = False


@pytest.mark.usefixtures("no_scoring")
@pytest.mark.parametrize("name", SOURCES)
def test_no_validation_file_is_opened_before_the_artifact_is_written(
    data: Path, tmp_path: Path, opened: list[str], name: str
) -> None:
    """Spec 2.3. The shards are there before, so the whole run up to the artifact can do without."""
    ran(calibrated().set("calibrate.source", SOURCES[name]), tmp_path, data)
    assert (tmp_path / "artifact.bg").exists()
    assert "train_000000.bin" in opened and "manifest.json" in opened, "it does watch"
    assert [file for file in opened if file.startswith("val")] == []
