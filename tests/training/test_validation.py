"""Validation during training: it changes nothing else, and comes when the recipe says."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bitgolf.average.swa import SWA
from bitgolf.config.spec import Spec, part
from bitgolf.errors import Interrupted, Stopped
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.observers import StopRequest
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.checkpoint_manager import TrainResult
from bitgolf.training.loop import train
from bitgolf.training.validation import Validation
from bitgolf.training.validator import HeldOutLoss
from helpers.toy_training import (
    STEPS,
    FakeTime,
    State,
    before_step,
    crash,
    make_trainer,
    newest,
    no_report,
    same,
    short_recipe,
)

Events = list[dict[str, Any]]


def validated(recipe: Spec[Recipe] | None = None, **settings: Any) -> Spec[Recipe]:
    return (recipe or short_recipe()).set("train.validation", part(Validation, tokens=0, **settings))


class Evaluation:
    """Takes seconds of a fake clock and random numbers, and remembers the weights that it was given."""

    def __init__(self, clock: FakeTime | None = None, seconds: float = 0.0) -> None:
        self.clock, self.seconds, self.given = clock, seconds, list[dict[str, Tensor]]()

    def __call__(self, weights: Mapping[str, Tensor], progress: TrainingProgress) -> HeldOutLoss:
        torch.rand(3)
        self.given.append({path: w.clone() for path, w in weights.items()})
        if self.clock:
            self.clock.advance(self.seconds)
        return HeldOutLoss(1.5, 3.25, 100)


def run(
    data: Path, folder: Path, recipe: Spec[Recipe], evaluate: Evaluation, clock: FakeTime | None = None, **options: Any
) -> tuple[TrainResult, State, Events]:
    """Train, with a second of the clock for each step; returns result, state and events."""
    events: Events = []
    trainer = make_trainer(data, recipe)
    if clock:
        trainer = before_step(trainer, lambda step: clock.advance(1.0))
    report = lambda kind, **fields: events.append({"event": kind, **fields})  # noqa: E731
    result = train(trainer, folder, report, **{"resume": False, "evaluate": evaluate, **options})
    return result, trainer.clone_state(), events


def scores(events: Events) -> list[int]:
    return [event["step"] for event in events if event["event"] == "validation"]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> State:
    """The final state of a training without validation."""
    trainer = make_trainer(data, short_recipe())
    train(trainer, tmp_path_factory.mktemp("whole"), no_report, resume=False)
    return trainer.clone_state()


@pytest.mark.parametrize("weights", ["trained", "averaged"])
def test_it_changes_nothing_else(tmp_path: Path, data: Path, whole: State, weights: str) -> None:
    """Weights, optimizer, average and random state are equal bit for bit, also after a crash and a resumption."""
    recipe = validated(every_steps=1, weights=weights).set("train.checkpoint_seconds", 0.0)
    _, state, events = run(data, tmp_path / "a", recipe, Evaluation())
    assert same(state, whole) and scores(events) == list(range(1, STEPS + 1))
    crashing = before_step(make_trainer(data, recipe), lambda number: crash() if number == 5 else None)
    with pytest.raises(RuntimeError, match="on fire"):
        train(crashing, tmp_path / "b", no_report, resume=False, evaluate=Evaluation())
    _, state, events = run(data, tmp_path / "b", recipe, Evaluation(), resume=True)
    assert same(state, whole) and same(newest(tmp_path / "b").tensors, whole)
    assert scores(events) == [6, 7, 8]


def test_without_the_setting_nothing_is_evaluated(tmp_path: Path, data: Path) -> None:
    evaluation = Evaluation()
    run(data, tmp_path, short_recipe(), evaluation)
    assert evaluation.given == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [8]),
        ({"every_steps": 3}, [3, 6, 8]),
        ({"every_seconds": 2.5}, [3, 5, 8]),
        ({"at": (0.25, 0.6)}, [2, 5, 8]),
        ({"every_steps": 4, "at": (0.5, 0.75)}, [4, 6, 8]),
    ],
)
def test_when_it_comes(
    tmp_path: Path, data: Path, clock: FakeTime, settings: dict[str, Any], expected: list[int]
) -> None:
    _, _, events = run(data, tmp_path, validated(**settings), Evaluation(clock, 50.0), clock)
    assert scores(events) == expected


def test_the_event_has_the_score_and_its_place(tmp_path: Path, data: Path, clock: FakeTime) -> None:
    _, _, events = run(data, tmp_path, validated(every_steps=3), Evaluation(clock), clock)
    first = next(event for event in events if event["event"] == "validation")
    assert first == {
        "event": "validation", "step": 3, "training_seconds": 3.0, "weights": "trained",
        "bpb": 1.5, "loss": 3.25, "targets": 100, "seconds": first["seconds"], "on_clock": False,
    }  # fmt: skip
    assert events[events.index(first) - 1]["step"] == 3, "losses before it are reported before it"


def test_the_clock_stops_unless_the_recipe_puts_it_on_the_clock(tmp_path: Path, data: Path, clock: FakeTime) -> None:
    """Scores take 2 s, steps 1 s. The score after the last step is never on the clock."""
    result, _, events = run(data, tmp_path / "off", validated(every_steps=2), Evaluation(clock, 2.0), clock)
    assert result.training_seconds == 8.0
    assert [event["training_seconds"] for event in events if event["event"] == "step"] == [1, 2, 3, 4, 5, 6, 7, 8]
    on = validated(short_recipe(seconds=7.0, steps=0), every_steps=2, on_clock=True)
    result, _, events = run(data, tmp_path / "on", on, Evaluation(clock, 2.0), clock)
    assert scores(events) == [2, 4] and result.training_seconds == 8.0 and result.steps == 4
    on = validated(short_recipe(seconds=7.0, steps=0), every_steps=3, on_clock=True)
    result, _, events = run(data, tmp_path / "end", on, Evaluation(clock, 2.0), clock)
    assert scores(events) == [3, 5] and result.training_seconds == 7.0 and result.steps == 5
    assert [event["on_clock"] for event in events if event["event"] == "validation"] == [True, False]


def test_a_slow_score_on_the_clock_does_not_keep_training_from_going_on(
    tmp_path: Path, data: Path, clock: FakeTime
) -> None:
    recipe = validated(every_seconds=1.0, on_clock=True)
    _, _, events = run(data, tmp_path, recipe, Evaluation(clock, 9.0), clock)
    assert scores(events) == list(range(1, STEPS + 1))


def test_the_weights_are_those_of_the_model_or_their_average(tmp_path: Path, data: Path) -> None:
    """The trained ones until the average has its first snapshot, here after step 6."""
    recipe = validated(every_steps=1, weights="averaged").set("average", part(SWA, every=6, lr_scale_below=2.0))
    evaluation, objective = Evaluation(), "objective."
    _, state, events = run(data, tmp_path, recipe, evaluation)
    kinds = [event["weights"] for event in events if event["event"] == "validation"]
    assert kinds == ["trained"] * 5 + ["averaged"] * 3
    assert all(not path.startswith(objective) for path in evaluation.given[-1])
    assert {f"weights/{path}" for path in evaluation.given[-1]} <= state.keys()
    at_six, last = evaluation.given[5], evaluation.given[-1]
    assert all(torch.equal(at_six[path], last[path]) for path in last), "one snapshot is the average"
    assert any(not torch.equal(last[path], state[f"weights/{path}"]) for path in last)


def test_a_complete_training_that_is_resumed_is_scored(tmp_path: Path, data: Path) -> None:
    """The score after the last step may have been interrupted. No step is trained again."""
    run(data, tmp_path, short_recipe(), Evaluation())
    _, _, events = run(data, tmp_path, validated(every_steps=1), Evaluation(), resume=True)
    assert scores(events) == [STEPS] and not [event for event in events if event["event"] == "step"]


def test_a_stop_at_a_score_ends_training_there(tmp_path: Path, data: Path) -> None:
    stop = StopRequest()
    trainer = make_trainer(data, validated(every_steps=3))
    report = lambda kind, **fields: kind == "validation" and stop.request("worse than the best")  # noqa: E731
    with pytest.raises(Stopped, match="after step 3: worse than the best"):
        train(trainer, tmp_path, report, resume=False, stop=stop, evaluate=Evaluation())
    assert newest(tmp_path).step == 3


def test_a_signal_during_a_score_is_answered_after_it(tmp_path: Path, data: Path) -> None:
    trainer = make_trainer(data, validated(every_steps=3))
    report = lambda kind, **fields: kind == "validation" and signal.raise_signal(signal.SIGTERM)  # noqa: E731
    with pytest.raises(Interrupted, match="after step 3"):
        train(trainer, tmp_path, report, resume=False, evaluate=Evaluation())
    assert newest(tmp_path).step == 3


@given(
    steps=st.integers(1, 60),
    every=st.integers(0, 7),
    seconds=st.sampled_from([0.0, 2.0, 7.5]),
    at=st.lists(st.sampled_from([0.1, 0.33, 0.5, 0.9]), max_size=3).map(tuple),
    start=st.integers(0, 59),
)
def test_a_resumed_training_is_scored_at_the_same_steps(
    steps: int, every: int, seconds: float, at: tuple[float, ...], start: int
) -> None:
    """The times depend on the progress alone."""
    settings = Validation(tokens=0, every_steps=every, every_seconds=seconds, at=at)

    def times(first: int) -> list[int]:
        last, found = TrainingProgress(first, steps, float(first), 0.0), list[int]()
        for step in range(first + 1, steps):
            now = TrainingProgress(step, steps, float(step), 0.0)
            if settings.due(last, now):
                found.append(step)
                last = now
        return found

    assert times(start) == [step for step in times(0) if step > start]
