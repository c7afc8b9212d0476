"""Trackers of a run (`--track`): what a stand-in receives, and that its failures are warnings of the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import bitgolf
from bitgolf.commands.sweep_runs import SweepExecution, repeat_recipe
from bitgolf.config.spec import part
from bitgolf.errors import Stopped, UsageError
from bitgolf.pipeline.execute import ExecutionOptions, run_recipe
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.pipeline.result import RunResult
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.recipes.identity import recipe_hash
from bitgolf.report.events import current_warnings, read_events, training_losses
from bitgolf.tracking import choose
from bitgolf.tracking.tracker import TrackedRun, Tracker
from bitgolf.training.validation import Validation
from helpers.command_line import run_command
from helpers.toy_run import scalable_recipe
from helpers.toy_training import make_data

RECIPE = scalable_recipe().set("train.validation", part(Validation, tokens=64, at=(0.5,)))


class StandIn(Tracker):
    """Keeps what it receives, for the test. fails: the method that raises."""

    package = "json"
    fails, calls = "", list[tuple[str, Any]]()

    def record(self, method: str, value: Any) -> None:
        self.calls.append((method, value))
        if method == self.fails:
            raise OSError("no space left\non device")

    def start(self, run: TrackedRun) -> None:
        self.record("start", run)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.record("log", (step, dict(values)))

    def finish(self, *, failed: bool) -> None:
        self.record("finish", failed)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "TRACKERS", {"standin": StandIn})
    monkeypatch.setattr(StandIn, "calls", [])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("shards") / "data")


def tracked_run(folder: Path, shards: Path, *, processes: int = 1) -> RunResult:
    options = ExecutionOptions(processes=processes, track=("standin:here",))
    return run_recipe(RECIPE, GivenInputs(shards=shards, seed=0), options, out=folder)


def logged() -> dict[str, list[tuple[int, float]]]:
    """Name -> (step, value) of what the stand-in was given."""
    found = dict[str, list[tuple[int, float]]]()
    for method, value in StandIn.calls:
        if method == "log":
            step, values = value
            for name, number in values.items():
                found.setdefault(name, []).append((step, number))
    return found


@pytest.mark.parametrize("processes", [1, 2])
def test_a_tracker_receives_the_figures_of_the_log(tmp_path: Path, shards: Path, processes: int) -> None:
    result = tracked_run(tmp_path / "run", shards, processes=processes)
    assert [method for method, _ in StandIn.calls if method != "log"] == ["start", "finish"]
    with pytest.raises(UsageError, match="expected one of standin:PROJECT"):
        bitgolf.sweep(RECIPE, seeds=1, shards=shards, out=tmp_path / "other", progress=False, track="nothing")
    assert StandIn.calls[0][0] == "start" and StandIn.calls[-1] == ("finish", False)
    run = StandIn.calls[0][1]
    assert run.name == "run" and run.config["hash"] == recipe_hash(RECIPE) and run.config["seed"] == 0
    assert run.config["settings"] == RECIPE.to_json()
    found = logged()
    assert found["train/loss"] == training_losses(read_events(RunFiles(tmp_path / "run").log).events)
    assert len(found["train/loss"]) == 8
    for stage, bpb in result.bpb.items():
        assert found.get(f"bpb/{stage}", []) == ([] if bpb is None else [(8, bpb)])
    assert found["validation/bpb"] == [(row.step, row.bpb) for row in result.validation] and len(result.validation) == 2
    assert found["bytes/total"] == [(8, result.bytes.total)] and found["bytes/cap"] == [(8, 40_000)]
    assert found["seconds/train"][0][1] == result.seconds["train"]
    rates = {name: steps for name, steps in found.items() if name.startswith("learning_rate/")}
    assert rates and all([step for step, _ in steps] == list(range(1, 9)) for steps in rates.values())
    assert all(steps[0][1] > steps[-1][1] > 0 for steps in rates.values()), "the schedule of the recipe decays"


@pytest.mark.parametrize("method", ["start", "log", "finish"])
def test_a_tracker_that_fails_is_one_warning_of_the_run(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(StandIn, "fails", method)
    result = tracked_run(tmp_path / "run", shards)
    assert result.fits and [call for call, _ in StandIn.calls].count(method) == 1
    assert method == "finish" or StandIn.calls[-1][0] == method, "it gets nothing more"
    warnings = current_warnings(read_events(RunFiles(tmp_path / "run").log).events)
    own = [text for text in warnings if "tracker" in text]
    assert own == ["the tracker StandIn failed, the run goes on without it: no space left on device"]


def test_a_run_that_is_refused_or_stopped(tmp_path: Path, shards: Path) -> None:
    options = ExecutionOptions(track=("standin:here",))
    given = GivenInputs(shards=shards, seed=0)
    with pytest.raises(Stopped):
        run_recipe(RECIPE, given, options, out=tmp_path / "a", observers=[lambda event: "enough"])
    assert not StandIn.calls, "no stage has started"
    with pytest.raises(Stopped):
        at_step_3 = lambda event: "enough" if event.get("step") == 3 else None  # noqa: E731
        run_recipe(RECIPE, given, options, out=tmp_path / "b", observers=[at_step_3])
    assert StandIn.calls[-1] == ("finish", True) and [step for step, _ in logged()["train/loss"]] == [1, 2, 3]


def test_options_that_are_no_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "package", "no_such_package")
    for command in (["run", "quickstart"], ["sweep", "quickstart", "--seeds", "2"]):
        for text in ("standin", "standin:", "standin: ", "other:here", "", "standin:a\nb"):
            done = run_command(*command, "--track", text, "--out", str(tmp_path / "run"))
            assert done.returncode == 2 and "--track: expected one of standin:PROJECT" in done.stderr, done.stderr
        done = run_command(*command, "--track", "standin:here", "--out", str(tmp_path / "run"))
        assert done.returncode == 2 and "needs the package no_such_package" in done.stderr
        assert "pip install 'bitgolf[standin]'" in done.stderr and not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="no_such_package"):
        choose.make_trackers(["standin:here"])


def test_sweeps_and_python_track_each_run(tmp_path: Path, shards: Path) -> None:
    execution = SweepExecution(GivenInputs(shards=shards), out=tmp_path / "sweep", track=("standin:here",))
    repeat_recipe(RECIPE, "2", execution.given, execution.options, execution.out)
    runs = [value for method, value in StandIn.calls if method == "start"]
    assert [run.config["seed"] for run in runs] == [0, 1] and len({run.name for run in runs}) == 2
    StandIn.calls.clear()
    bitgolf.train(RECIPE, shards=shards, out=tmp_path / "run", progress=False, track="standin:here")
    assert [method for method, _ in StandIn.calls if method != "log"] == ["start", "finish"]
