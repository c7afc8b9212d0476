"""The stage `calibrate` in a run at toy size, and the settings of a recipe that it accepts."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bitgolf.average.ema import EMA
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, Interrupted, RecipeError, UsageError
from bitgolf.files import read_json
from bitgolf.pipeline import execute as execution
from bitgolf.pipeline import training
from bitgolf.pipeline.data import PreparedData
from bitgolf.pipeline.execute import execute, run_stage
from bitgolf.pipeline.stages import STAGES, stage_named
from bitgolf.pipeline.state import Run
from bitgolf.pipeline.training import TrainingJob, train_rank
from bitgolf.quantize.calibration import calibrate
from bitgolf.quantize.calibration.calibrate import Calibrate, check_calibration, count_hessians
from bitgolf.quantize.calibration.sources import CalibrationContext, CalibrationSource, SelfGenerated, TrainingText
from bitgolf.quantize.calibration.stats_file import calibration_metadata, load_calibration, save_calibration
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.encoding import load_encoded
from bitgolf.recipes.identity import training_key
from bitgolf.recipes.recipe import Recipe
from bitgolf.recipes.time_limit import calibration_reserve, training_time_limit
from bitgolf.report.log import RunLog
from bitgolf.runtime.progress import CalibrationReserve, TrainingProgress
from bitgolf.training import loop
from bitgolf.training.trainer import Trainer
from helpers.toy import toy_recipe
from helpers.toy_training import FakeTime, make_data

SOURCES: dict[str, Spec[CalibrationSource]] = {
    "text": part(TrainingText, batches=3, rows=2),
    "samples": part(SelfGenerated, sequences=3, length=0, rows=2),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


# ---- settings of a recipe -----------------------------------------------------------------------------------------

SMALL = part(Calibrate, source=part(TrainingText, batches=2, rows=2))


def calibrated(steps: int = 4) -> Spec[Recipe]:
    """A toy recipe with GPTQ and the calibration that it needs."""
    recipe = toy_recipe(steps=steps).set("proof", None).set("calibrate", SMALL)
    return recipe.set("quantize.1.use", part(IntRows, bits=3, solver=part(GPTQ)))


def checked(recipe: Spec[Recipe], processes: int = 1) -> None:
    check_calibration(recipe().quantize, recipe().calibrate, processes)


def test_calibration_is_there_where_it_is_asked_for_and_nowhere_else() -> None:
    checked(calibrated(), 2)
    checked(toy_recipe())
    with pytest.raises(RecipeError, match=r"quantize.1.use: \w+ needs calibration.*\n.*--set 'calibrate=Cal"):
        checked(calibrated().set("calibrate", None))
    with pytest.raises(RecipeError, match="calibrate: no codec needs calibration, so it would have no effect"):
        checked(toy_recipe().set("calibrate", SMALL))
    with pytest.raises(RecipeError, match=r"calibrate: expected a part of the kind Calibrate"):
        checked(calibrated().set("calibrate", part(EMA, decay=0.9)))
    with pytest.raises(UsageError, match="3 processes cannot share 2 batches"):
        checked(calibrated(), 3)
    timed = calibrated().set("train.seconds", 5.0).set("calibrate.reserve", 5.0)
    with pytest.raises(RecipeError, match=r"5 s of train\.seconds=5 are reserved"):
        training_time_limit(timed, calibration_reserve(timed) or 0.0)


def test_a_reserve_shortens_a_limit_of_time_only() -> None:
    given = calibrated().set("calibrate.reserve", 4.0)
    assert (calibration_reserve(given), training_time_limit(given, 0.0)) == (0.0, 0.0), "there is only a limit of steps"
    timed = given.set("train.seconds", 90.0)
    assert (calibration_reserve(timed), training_time_limit(timed, 4.0)) == (4.0, 86.0)
    assert calibration_reserve(timed.set("calibrate", None)) == 0.0
    assert calibration_reserve(calibrated().set("train.seconds", 90.0)) is None, "the reserve is to be measured"


def test_the_key_of_training_is_the_same_on_every_machine() -> None:
    """A measured reserve is represented by the settings of calibration; without a time limit, neither is in the key."""
    free, timed = calibrated(), calibrated().set("train.seconds", 90.0)
    assert training_key(free) == training_key(free.set("calibrate.source.batches", 7).set("calibrate.reserve", 4.0))
    keys = [
        timed,
        timed.set("calibrate.source.batches", 7),
        timed.set("calibrate.reserve", 4.0),
        timed.set("calibrate", None),
    ]
    assert len({str(training_key(recipe)) for recipe in keys}) == 4
    given = timed.set("calibrate.reserve", 4.0)
    assert training_key(given) == training_key(given.set("calibrate.source.batches", 7))


@pytest.mark.parametrize(("reserve", "limit"), [(4.0, 86.0), (None, 90.0 - 1.1 * (2 * 5.0 + 1.0))])
def test_training_ends_early_by_the_reserve(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reserve: float | None, limit: float
) -> None:
    """The training loop receives the shortened time limit; the settings are unchanged."""
    seen: list[tuple[float, float]] = []

    def no_training(trainer: Any, *rest: Any, **more: Any) -> None:
        seen.append((trainer.settings.seconds, more["limit"]))
        raise BitgolfError("enough")

    monkeypatch.setattr(loop, "train", no_training)
    recipe = calibrated().set("train.seconds", 90.0).set("calibrate.reserve", reserve)
    monkeypatch.setattr(training, "measure_calibration_reserve", lambda *_: CalibrationReserve(2, 5.0, 1.0))
    with pytest.raises(BitgolfError, match="enough"):
        train_rank(TrainingJob(recipe=recipe, data=data, folder=tmp_path), RunLog(quiet=True))
    assert seen == [(90.0, limit)]


def test_a_reserve_that_leaves_no_time_to_train_is_an_error(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "measure_calibration_reserve", lambda *_: CalibrationReserve(1, 8.0, 1.0))
    job = TrainingJob(recipe=calibrated().set("train.seconds", 9.0), data=data, folder=tmp_path)
    with pytest.raises(RecipeError, match=r"9.9 s of train\.seconds=9 are reserved.*\n.*train.seconds above 9.9"):
        train_rank(job, RunLog(quiet=True))


# ---- the stage ---------------------------------------------------------------------------------------------------


@pytest.fixture
def no_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end once the artifact is written."""

    def stop(run: Run) -> PreparedData:
        raise BitgolfError("it is packed")

    stages = tuple(replace(stage, work=stop) if stage.name == "score" else stage for stage in STAGES)
    monkeypatch.setattr(execution, "STAGES", stages)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def ran(recipe: Spec[Recipe], folder: Path, data: Path, first: str | None = None) -> dict[str, dict[str, Any]]:
    """Run the stages up to `pack`; returns `stages.json`."""
    log = RunLog(folder, quiet=True)
    try:
        with pytest.raises(BitgolfError, match="it is packed"):
            execute(Run(recipe, folder, log, shards=data), from_stage=first)
    finally:
        log.close()
    return read_json(folder / "stages.json")


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [event for event in found if event["event"] == kind]


def batches_of(done: dict[str, dict[str, Any]]) -> list[int]:
    """Number of calibration batches of each process."""
    return done["calibrate"]["calibration"]["batches_per_process"]


def weights(folder: Path) -> Tensor:
    codes = load_encoded(folder / "codes" / "codes.safetensors")
    return torch.from_numpy(codes["blocks.0.mlp.up.weight"]["codes"])


@pytest.mark.usefixtures("no_scoring")
def test_a_run_calibrates_between_averaging_and_quantizing(data: Path, tmp_path: Path) -> None:
    done = ran(calibrated(), tmp_path, data)
    assert list(done) == ["prepare", "train", "average", "calibrate", "quantize", "pack"]
    known = load_calibration(tmp_path / "calibration.safetensors")
    stage, clock = done["calibrate"]["calibration"], done["calibrate"]["training_clock"]
    assert stage["source"] == "TrainingText" and stage["tokens"] == 2 * 2 * 32
    assert (stage["matrices"], stage["hessians"], stage["processes"]) == (len(known), count_hessians(known), 1)
    assert clock["total"] == pytest.approx(clock["train"] + clock["calibrate"], abs=0.02)
    assert 0 < clock["calibrate"] <= done["calibrate"]["seconds"] + 0.01 and clock["limit"] == 0
    (event,) = events(tmp_path, "calibration")
    assert event.items() >= {k: stage[k] for k in ("source", "tokens", "matrices", "hessians", "processes")}.items()
    assert "calibrated on 128 tokens" in (tmp_path / "run.log").read_text()
    assert not events(tmp_path, "warning") or "over the limit" not in str(events(tmp_path, "warning"))


@pytest.mark.usefixtures("no_scoring")
def test_what_is_done_again_when_calibration_changes(data: Path, tmp_path: Path) -> None:
    """Changed settings: all stages from `calibrate` on. A changed file: the stage that wrote it. Training is reused."""
    recipe = calibrated()
    first, codes = ran(recipe, tmp_path, data), weights(tmp_path)
    assert ran(recipe, tmp_path, data) == first
    again = ran(recipe.set("calibrate.source", part(SelfGenerated, sequences=2, length=0)), tmp_path, data)
    assert again["average"] == first["average"] and again["calibrate"]["key"] != first["calibrate"]["key"]
    assert not torch.equal(weights(tmp_path), codes), "other statistics must give other codes"
    ran(recipe, tmp_path, data)
    assert torch.equal(weights(tmp_path), codes), "the first settings must give the first codes again"
    path = tmp_path / "calibration.safetensors"
    save_calibration(
        path, {k: s._replace(hessian=torch.eye(len(s.hessian))) for k, s in load_calibration(path).items()}
    )
    for _ in range(2):
        other = ran(recipe, tmp_path, data)
        assert other["quantize"]["key"] == first["quantize"]["key"] and torch.equal(weights(tmp_path), codes)
        assert other["train"] == first["train"] and other["calibrate"]["files"] == first["calibrate"]["files"]
        path.unlink()


@pytest.mark.usefixtures("no_scoring")
def test_without_calibration_the_stage_passes(data: Path, tmp_path: Path) -> None:
    done = ran(toy_recipe(steps=2), tmp_path, data)
    assert done["calibrate"]["calibration"] == {"source": "none"}
    assert done["calibrate"]["training_clock"]["calibrate"] == 0
    assert not (tmp_path / "calibration.safetensors").exists()
    again = calibrated(steps=2).set("train.seconds", 0.0)
    assert ran(again, tmp_path, data)["train"] == done["train"], "calibration can be added later without training again"


@pytest.mark.usefixtures("no_scoring")
def test_over_the_training_clock_is_said_aloud(data: Path, tmp_path: Path) -> None:
    """A given reserve is not measured, and all batches are observed even if the limit is exceeded."""
    recipe = calibrated().set("train.seconds", 0.02).set("train.steps", 1000).set("calibrate.reserve", 0.0)
    clock = ran(recipe, tmp_path, data)["calibrate"]["training_clock"]
    assert clock["total"] > clock["limit"] == 0.02
    (event,) = events(tmp_path, "calibration_reserve")
    assert (event["seconds"], event["time_limit_seconds"]) == (0.0, 0.02)
    (warning,) = [e for e in events(tmp_path, "warning") if "over the limit" in e["message"]]
    assert all(f"{clock[k]} s" in warning["message"] and warning[k] == clock[k] for k in clock)


# ---- the clock ---------------------------------------------------------------------------------------------------


class Clocks:
    """Fake clock of training and calibration.

    A training step takes a second, a calibration batch takes `measured` seconds before training and `batch` after it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, measured: float = 5.0, batch: float = 5.0) -> None:
        self.time, self.batch, self.measured, self.batches = FakeTime(), batch, measured, 0
        self.trained = False
        for module in (loop, calibrate):
            monkeypatch.setattr(module, "time", self.time)
        step, opened = Trainer.step, TrainingText.open

        def stepped(trainer: Trainer, number: int, now: TrainingProgress) -> Tensor:
            self.trained = True
            self.time.advance(1.0)
            return step(trainer, number, now)

        def slow(source: TrainingText, subject: CalibrationContext) -> Callable[[int], Tensor]:
            batch = opened(source, subject)
            return lambda number: (self.pass_batch(), batch(number))[1]

        monkeypatch.setattr(Trainer, "step", stepped)
        monkeypatch.setattr(TrainingText, "open", slow)

    def pass_batch(self) -> None:
        self.batches += 1
        self.time.advance(self.batch if self.trained else self.measured)


def timed(seconds: float) -> Spec[Recipe]:
    recipe = calibrated(steps=0).set("train.seconds", seconds) if seconds else calibrated()
    return recipe.set("calibrate.source", part(TrainingText, batches=4, rows=1))


@pytest.mark.usefixtures("no_scoring")
@pytest.mark.parametrize(
    ("batch", "batches", "calibrate", "over"), [(5.0, 4, 20.0, False), (9.0, 2, 18.0, True), (30.0, 1, 30.0, True)]
)
def test_the_limit_is_kept_with_calibration(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch: float,
    batches: int,
    calibrate: float,
    over: bool,
) -> None:
    """The measured reserve is 1.1 x 4 x 5 s = 22 s of 60 s.

    If batches take longer after training, only those that end in time are observed, but at least one.
    """
    clocks = Clocks(monkeypatch, batch=batch)
    done = ran(timed(60.0), tmp_path, data)
    clock = done["calibrate"]["training_clock"]
    assert clock == {"train": 38.0, "calibrate": calibrate, "total": 38.0 + calibrate, "limit": 60.0}
    assert clock["total"] <= 60.0 + 1.0 or batches == 1
    assert clocks.batches == 2 + batches, "two batches are for the measurement"
    assert (done["train"]["time_limit_seconds"], done["train"]["steps"]) == (38.0, 38)
    assert done["train"]["calibration_reserve"] == {"rounds": 4, "round_seconds": 5.0, "fixed_seconds": 0.0}
    assert batches_of(done) == [batches] and done["calibrate"]["calibration"]["planned_batches"] == 4
    warned = [event for event in events(tmp_path, "warning") if "ended at the time limit" in event["message"]]
    assert bool(warned) == over
    if over:
        assert f"of 60 s, with {batches} of 4 batches" in warned[0]["message"] and warned[0]["batches"] == batches
    assert any("over the limit" in event["message"] for event in events(tmp_path, "warning")) == (batches == 1)
    (event,) = events(tmp_path, "calibration_reserve")
    assert (event["seconds"], event["time_limit_seconds"]) == (22.0, 38.0)


@pytest.mark.usefixtures("no_scoring")
def test_calibration_that_is_done_again_gives_the_same_bytes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It observes as many batches as the first time, even if there is time for all of them."""
    clocks, file = Clocks(monkeypatch, batch=9.0), tmp_path / "calibration.safetensors"
    first = ran(timed(60.0), tmp_path, data)
    content = file.read_bytes()
    assert calibration_metadata(file)["batches"] == batches_of(first) == [2]
    for clocks.batch in (0.1, 1000.0):
        again = ran(timed(60.0), tmp_path, data, "calibrate")
        assert file.read_bytes() == content and batches_of(again) == [2]
        assert again["train"] == first["train"] and again["quantize"]["key"] == first["quantize"]["key"]
    assert "2 of 4 batches, the number of the first calibration" in (tmp_path / "run.log").read_text()
    clocks.batch = 0.1
    other = ran(timed(60.0).set("calibrate.source.seed", 43), tmp_path, data, "train")
    assert batches_of(other) == [4], "with other inputs, the time limit decides"
    assert other["calibrate"]["training_clock"]["total"] == 60.4, (
        "a part of a training step beyond its limit is not taken from calibration"
    )


@pytest.mark.usefixtures("no_scoring")
def test_without_a_limit_of_time_nothing_is_measured(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks(monkeypatch, batch=1000.0)
    done = ran(timed(0.0), tmp_path, data)
    assert clocks.batches == 4 and batches_of(done) == [4] and "limit" not in str(events(tmp_path, "warning"))
    assert (done["train"]["calibration_reserve"], done["train"]["time_limit_seconds"]) == (None, 0.0) and not events(
        tmp_path, "calibration_reserve"
    )


@pytest.mark.usefixtures("no_scoring")
def test_a_run_that_goes_on_has_the_reserve_of_its_beginning(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are faster in the resumed run, but the time limit of training stays the same."""
    clocks = Clocks(monkeypatch)
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, n, now: signal.raise_signal(signal.SIGTERM) or step(self, n, now))
    with pytest.raises(Interrupted):
        execute(Run(timed(60.0), tmp_path, RunLog(quiet=True), shards=data))
    monkeypatch.setattr(Trainer, "step", step)
    clocks.measured, clocks.trained = 0.1, False
    with pytest.raises(BitgolfError, match="it is packed"):
        execute(Run(timed(60.0), tmp_path, RunLog(quiet=True), shards=data, resume=True))
    train = read_json(tmp_path / "stages.json")["train"]
    assert (train["time_limit_seconds"], train["training_seconds"], train["steps"]) == (38.0, 38.0, 38)


def test_a_recipe_that_would_fail_later_fails_before_training(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the recipe has none"):
        execute(Run(calibrated().set("calibrate", None), tmp_path, RunLog(quiet=True), shards=data))
    assert not (tmp_path / "stages.json").exists()


# ---- the validation text -----------------------------------------------------------------------------------------

OPENED: list[str] = []
WATCHING = [False]


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Names of the files that Python opens during the test."""
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
    """`prepare` checks all shards; no later stage up to `pack` needs the validation text."""
    run_stage(Run(calibrated(), tmp_path, RunLog(quiet=True), shards=data), stage_named("prepare"))
    assert "val_000000.bin" in opened
    opened.clear()
    ran(calibrated().set("calibrate.source", SOURCES[name]), tmp_path, data)
    assert (tmp_path / "artifact.bg").exists()
    assert "train_000000.bin" in opened and "manifest.json" in opened, "the audit hook must be active"
    assert [file for file in opened if file.startswith("val")] == []
