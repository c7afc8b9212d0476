"""Observers of a run: what they see, how they stop it, and what the folder says of it afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import bitgolf
from bitgolf.errors import Stopped, UsageError
from bitgolf.pipeline.execute import ExecutionOptions, run_recipe
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.pipeline.state import read_outcomes
from bitgolf.pipeline.stopped import read_stop
from bitgolf.report.events import read_events
from bitgolf.report.log import RunLog
from bitgolf.report.observers import Observer
from bitgolf.store.entry import read_entry
from bitgolf.training import checkpoint
from helpers.toy_run import run_toy, scalable_recipe
from helpers.toy_training import make_data

RECIPE = scalable_recipe()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("shards") / "data")


@pytest.fixture(scope="module")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a run that nothing stopped."""
    run_toy(folder := tmp_path_factory.mktemp("whole") / "run", RECIPE, shards)
    return RunFiles(folder).artifact


def observed(
    folder: Path, shards: Path, observer: Observer, *, processes: int = 1, steps: int = 8, resume: bool = False
) -> None:
    options = ExecutionOptions(processes=processes, resume=resume)
    recipe = RECIPE.set("train.steps", steps).set("train.checkpoint_seconds", 1000.0)
    run_recipe(recipe, GivenInputs(shards=shards, seed=0), options, out=folder, observers=[observer])


def when(kind: str, reason: str = "it is enough", **fields: Any) -> Observer:
    """An observer that stops a run at an event with these fields."""

    def observer(event: dict[str, Any]) -> str | None:
        return reason if event["event"] == kind and fields.items() <= event.items() else None

    return observer


def test_a_run_is_stopped_in_training_and_continues(tmp_path: Path, shards: Path, whole: Path) -> None:
    folder, files, seen = tmp_path / "run", RunFiles(tmp_path / "run"), list[dict[str, Any]]()
    stop = when("step", step=3)

    def observer(event: dict[str, Any]) -> str | None:
        seen.append(event)
        return stop(event)

    with pytest.raises(Stopped, match=r"^stopped after step 3: it is enough\n.*--resume") as caught:
        observed(folder, shards, observer)
    assert caught.value.reason == "it is enough" and caught.value.exit_code == 1
    found = checkpoint.load_latest(files.checkpoints)
    assert found and found.step == 3
    assert list(read_outcomes(folder, RunLog(quiet=True))) == ["prepare"]
    assert str(read_stop(folder)) == read_entry(folder, "run").state == "stopped after step 3: it is enough"
    events = read_events(files.log).events
    assert seen == events and events[-1] | {"time": 0} == {
        "event": "stopped", "time": 0, "when": "after step 3", "reason": "it is enough"
    }  # fmt: skip
    with pytest.raises(UsageError, match="unfinished training, stopped after step 3: it is enough"):
        observed(folder, shards, lambda event: None)
    observed(folder, shards, lambda event: None, resume=True)
    assert files.artifact.read_bytes() == whole.read_bytes()
    assert read_stop(folder) is None and read_entry(folder, "run").state == "report"


def test_a_run_is_stopped_between_stages_and_continues(tmp_path: Path, shards: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Stopped, match="before the stage score: over the cap"):
        observed(folder, shards, when("stage_done", "over the cap", stage="pack"))
    done = list(read_outcomes(folder, RunLog(quiet=True)))
    assert done[-1] == "pack" and str(read_stop(folder)) == "stopped before the stage score: over the cap"
    observed(folder, shards, lambda event: None)
    assert RunFiles(folder).artifact.read_bytes() == whole.read_bytes() and read_stop(folder) is None


def test_a_run_that_is_stopped_before_its_first_stage_leaves_nothing(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(Stopped, match="before the stage prepare"):
        observed(tmp_path / "run", shards, when("run"))
    assert not (tmp_path / "run").exists()


def test_a_request_in_the_last_stage_changes_nothing(tmp_path: Path, shards: Path) -> None:
    observed(tmp_path / "run", shards, when("stage_done", stage="report"))
    assert RunFiles(tmp_path / "run").result.exists() and read_stop(tmp_path / "run") is None


def test_several_processes_are_stopped(tmp_path: Path, shards: Path) -> None:
    """Their events come from the log that the first of them writes, each once and in order."""
    folder, seen = tmp_path / "run", list[dict[str, Any]]()

    def observer(event: dict[str, Any]) -> str | None:
        seen.append(event)
        return "it is enough" if event["event"] == "step" else None

    with pytest.raises(Stopped, match="during training: it is enough"):
        observed(folder, shards, observer, processes=2, steps=100_000)
    found = checkpoint.load_latest(RunFiles(folder).checkpoints)
    events = read_events(RunFiles(folder).log).events
    assert found and 0 < found.step == sum(event["event"] == "step" for event in events)
    assert seen == events and read_stop(folder)


def test_an_observer_that_fails_ends_several_processes(tmp_path: Path, shards: Path) -> None:
    def observer(event: dict[str, Any]) -> str | None:
        if event["event"] == "step":
            raise LookupError("a defect")
        return None

    with pytest.raises(LookupError, match="a defect"):
        observed(tmp_path / "run", shards, observer, processes=2, steps=100_000)


def test_a_damaged_record_is_no_obstacle(tmp_path: Path, shards: Path) -> None:
    files = RunFiles(tmp_path / "run")
    with pytest.raises(Stopped):
        observed(files.folder, shards, when("step", step=3))
    files.stopped.write_text("{")
    assert read_stop(files.folder) is None and read_entry(files.folder, "run").state == "prepare"


def test_observers_in_python(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(bitgolf.Stopped, match="after step 2"):
        bitgolf.train(RECIPE, shards=shards, out=tmp_path / "run", progress=False, observer=when("step", step=2))
