"""The state of a run from its events, whatever the log holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.report.events import ValidationRow, validation_rows
from bitgolf.watch.page import render_view
from bitgolf.watch.state import Event, RunState, WriterProcess, view_run
from bitgolf.watch.text import current_progress, view_lines

ALIVE, GONE, NO_LOCK = (
    WriterProcess(exists=True),
    WriterProcess(exists=False, name="process 7"),
    WriterProcess(exists=False),
)


def event(kind: str, **fields: Any) -> Event:
    return {"event": kind, "time": 1000.0, **fields}


def step(number: int, seconds: float, loss: float = 3.0) -> Event:
    return event("step", step=number, loss=loss, tokens=100 * number, training_seconds=seconds)


def validation(number: int, bpb: float) -> Event:
    fields = {"step": number, "training_seconds": 1.0, "loss": 2 * bpb, "targets": 50, "weights": "trained"}
    return event("validation", bpb=bpb, seconds=0.5, on_clock=False, **fields)


BEGUN = [
    event("run", recipe="toy", hash="abc", seed=3),
    event("stage", stage="prepare"),
    event("stage_done", stage="prepare", seconds=1.5),
    event("stage", stage="train"),
    event("training", steps=40, time_limit_seconds=0.0),
]
TRAINING = [*BEGUN, *(step(n, n / 2, 4.0 - n / 10) for n in range(1, 11)), validation(10, 1.25)]


def state(events: list[Event], process: WriterProcess = ALIVE) -> RunState:
    return view_run("runs/toy", events, process).state


def test_a_run_in_training() -> None:
    found = state(TRAINING)
    assert (found.status, found.stage, found.stages) == ("running", "train", {"prepare": 1.5})
    assert (found.recipe, found.hash, found.seed, found.updated) == ("toy", "abc", 3, 1000.0)
    assert (found.step, found.steps, found.tokens, found.loss) == (10, 40, 1000, 3.0)
    assert found.tokens_per_second == 200.0 and found.seconds_left == 15.0 and found.share == 0.25
    assert found.validation == [ValidationRow(10, 1.0, 1.25, 2.5, 50, "trained")]
    progress = current_progress(found)
    assert progress.percent == "25 %" and progress.details == ("step 10 of 40", "loss 3.000", "200 tokens/s")


def test_a_time_limit_and_the_limit_of_a_resumed_training() -> None:
    events = [*BEGUN[:-1], event("training", steps=0, time_limit_seconds=20.0), step(10, 5.0)]
    assert state(events).time_limit_seconds == 20.0 and state(events).seconds_left == 15.0
    resumed = [*events, event("run"), *BEGUN[3:4], events[-2], event("resume", step=10, time_limit_seconds=10.0)]
    assert state(resumed).time_limit_seconds == 10.0 and state(resumed).share == 0.5


@pytest.mark.parametrize(
    ("last", "process", "status", "reason"),
    [
        ([], ALIVE, "running", ""),
        ([], WriterProcess(exists=None, name="process 7 on another"), "running", ""),
        ([], GONE, "ended", "process 7 does not exist any more"),
        ([], NO_LOCK, "ended", "no process writes to the folder"),
        ([event("stopped", when="after step 9", reason="too bad")], NO_LOCK, "stopped", "after step 9: too bad"),
        ([event("failed", message="the disk is full")], NO_LOCK, "failed", "the disk is full"),
        ([event("stage_done", stage="report", seconds=0.1)], NO_LOCK, "finished", ""),
        ([event("reused", stage="report")], NO_LOCK, "finished", ""),
        ([event("failed", message="the disk is full"), event("run")], ALIVE, "running", ""),
        ([event("stage_done", stage="report"), event("run")], GONE, "ended", "process 7 does not exist any more"),
    ],
)
def test_how_a_run_ends(last: list[Event], process: WriterProcess, status: str, reason: str) -> None:
    found = state([*TRAINING, *last], process)
    assert (found.status, found.reason) == (status, reason) and found.over == (status != "running")


def test_without_events_a_run_has_not_begun() -> None:
    assert state([], NO_LOCK) == RunState(run="runs/toy", status="not begun") and not state([]).over


def test_a_step_that_is_trained_again_removes_later_scores() -> None:
    again = [*TRAINING, step(11, 5.5), validation(11, 1.1), event("resume", step=9), step(10, 5.0)]
    assert validation_rows(again) == []
    assert [row.step for row in validation_rows([*again, validation(10, 1.2)])] == [10]


def test_lines_have_what_matters() -> None:
    scored = event("score", method="sliding", bpb=1.2345)
    warned = event("warning", message="training read its text 9 times")
    text = "\n".join(view_lines(view_run("runs/toy", [*TRAINING, warned, scored], ALIVE), width=80))
    for words in (
        "runs/toy (toy, seed 3): running",
        "stages: prepare 1.5 s, train …",
        "training: 25 %, 15 s left, step 10 of 40, loss 3.000, 200 tokens/s, clock 5.0 s",
        "validation, bits per byte: 1.2500 after step 10",
        "packed: sliding 1.2345 bpb",
        "training loss by step, nats per token (dots: held-out text)",
        "warning: training read its text 9 times",
    ):
        assert words in text
    assert "●" in text and "no event for" in text


def test_the_page_is_loaded_again_until_the_run_is_over() -> None:
    page = render_view(view_run("runs/toy", TRAINING, ALIVE))
    assert "http-equiv=refresh" in page and "<svg" in page and "1.2500" in page and "<h1>toy</h1>" in page
    done = [*TRAINING, event("stage_done", stage="report", seconds=1.0)]
    assert "http-equiv=refresh" not in render_view(view_run("runs/toy", done, NO_LOCK))
    assert render_view(view_run("runs/toy", [], NO_LOCK)).count("not begun") >= 1


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 50),
    st.floats(),
    st.text(max_size=8),
    st.just("\x1b[31m<b>"),
    st.just([1]),
)
FIELDS = ("step", "loss", "tokens", "training_seconds", "stage", "seconds", "seed", "recipe", "reason", "when",
          "message", "bpb", "method", "targets", "weights", "steps", "time_limit_seconds", "time", "phase_start")  # fmt: skip
KINDS = ("run", "stage", "stage_done", "reused", "step", "validation", "training", "resume", "phase", "warning", "score",
         "stopped", "failed", "diverged")  # fmt: skip
EVENTS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(FIELDS), VALUES)).map(
        lambda pair: {"event": pair[0], **pair[1]}
    ),
    max_size=12,
)


@settings(max_examples=40)
@given(EVENTS)
def test_any_log_has_a_state(events: list[Event]) -> None:
    """Also one that was edited: nothing is executed on the terminal, and no line is lost."""
    view = view_run("runs/toy", json.loads(json.dumps([*TRAINING, *events])), ALIVE)
    lines = view_lines(view, width=80)
    assert lines and all("\x1b" not in line for line in lines)
    json.dumps([row.bpb for row in view.state.validation])


@given(EVENTS)
def test_any_log_has_a_page(events: list[Event]) -> None:
    assert "<b>" not in render_view(view_run("runs/toy", events, ALIVE))
