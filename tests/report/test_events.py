"""What the log of a run says about its training and its warnings, if stages were repeated, resumed or damaged."""

from __future__ import annotations

from typing import Any

import pytest

from bitgolf.report.events import (
    StepRow,
    current_warnings,
    recompilations,
    stage_ends,
    step_times,
    training_checkpoints,
    training_losses,
    training_phases,
    training_steps,
    warm_ups,
)


def step(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "event": "step",
        "step": number,
        "loss": 0.5 * number,
        "tokens": 8 * number,
        "training_seconds": 2.0,
    } | fields


def test_resumed_steps_replace_those_before_them() -> None:
    events = [step(1), step(2), step(3), {"event": "stage"}, step(2, loss=9.0), step(3, loss=8.0)]
    assert training_steps(events) == [StepRow(1, 0.5, 8, 2.0), StepRow(2, 9.0, 16, 2.0), StepRow(3, 8.0, 24, 2.0)]
    assert training_losses(events) == [(1, 0.5), (2, 9.0), (3, 8.0)]


def test_fields_that_are_missing_or_damaged_do_not_stop_the_reading() -> None:
    events = [step(1, loss="low"), step(2, step=None), step(3, tokens=None, training_seconds=4), {"event": "step"}]
    assert training_steps(events) == [StepRow(3, 1.5, 0, 4.0)]


def run(recipe: str = "a") -> dict[str, Any]:
    return {"event": "run", "hash": recipe}


def stage(name: Any) -> dict[str, Any]:
    return {"event": "stage", "stage": name}


def warning(message: Any) -> dict[str, Any]:
    return {"event": "warning", "message": message}


def phase(step: Any, start: Any) -> dict[str, Any]:
    return {"event": "phase", "step": step, "phase_start": start}


def test_warnings_of_a_repeated_stage_replace_the_earlier_ones() -> None:
    first = [run(), warning("caution"), stage("train"), warning("slow"), stage("score"), warning("late")]
    assert current_warnings(first) == ["caution", "slow", "late"]
    again = [*first, run(), stage("score"), warning("late, again")]
    assert current_warnings(again) == ["caution", "slow", "late, again"]
    assert current_warnings([*first, run("b"), warning("other")]) == ["other"], "the recipe is another one"


def test_a_warning_is_told_once() -> None:
    assert current_warnings([run(), warning("a"), stage("train"), warning("a"), warning("b")]) == ["a", "b"]


def test_events_with_values_of_another_type_are_left_out() -> None:
    assert current_warnings([run(), warning(None), stage(["x"]), warning({"a": 1})]) == []
    assert training_phases([stage("train"), phase("1", 0.5), phase(1, None)]) == []
    assert stage_ends([{"event": "stage_done", "stage": 3, "time": 1.0}, {"event": "stage_done", "stage": "a"}]) == {}


def test_phases_are_those_of_the_last_training() -> None:
    first = [stage("train"), phase(10, 0.5), phase(15, 0.75)]
    assert training_phases(first) == [(10, 0.5), (15, 0.75)]
    assert training_phases([*first, stage("train"), phase(20, 0.5)]) == [(20, 0.5)]
    resumed = [*first, stage("train"), {"event": "resume", "step": 12}, phase(16, 0.75)]
    assert training_phases(resumed) == [(10, 0.5), (16, 0.75)], "what followed the checkpoint is repeated"


def at(kind: str, step: Any) -> dict[str, Any]:
    return {"event": kind, "step": step}


def test_checkpoints_and_recompilations_are_those_of_the_last_training() -> None:
    first = [stage("train"), at("recompile", 0), at("checkpoint", 10), at("recompile", 12), at("checkpoint", 20)]
    assert (training_checkpoints(first), recompilations(first)) == ([10, 20], [0, 12])
    resumed = [
        *first,
        stage("train"),
        at("resume", 10),
        at("recompile", 11),
        at("checkpoint", 21),
        at("checkpoint", "x"),
    ]
    assert (training_checkpoints(resumed), recompilations(resumed)) == ([10, 21], [0, 11])
    assert training_checkpoints([*resumed, stage("train"), at("checkpoint", 3)]) == [3]


def test_graphs_that_were_compiled_before_the_clock() -> None:
    def warm_up(start: Any, seconds: Any) -> dict[str, Any]:
        return {"event": "warm_up", "phase_start": start, "seconds": seconds}

    events = [stage("train"), warm_up(0.0, 9.0), stage("train"), warm_up(0, 31.2), warm_up(0.7, 2), warm_up(None, 1.0)]
    assert warm_ups(events) == [(0.0, 31.2), (0.7, 2.0)]


def test_steps_that_are_logged_together_have_their_mean_time() -> None:
    rows = [
        StepRow(step, 1.0, 8, seconds) for step, seconds in ((1, 0.5), (2, 0.6), (3, 1.0), (4, 1.0), (5, 1.0), (6, 1.0))
    ]
    assert [(time.step, pytest.approx(time.seconds)) for time in step_times(rows)] == [(1, 0.5), (2, 0.1), (6, 0.1)]
    assert step_times([StepRow(1, 1.0, 8, 0.0), StepRow(2, 1.0, 8, 0.0)]) == [], "a log without times"


def test_the_last_end_of_a_stage_counts() -> None:
    ends = [{"event": "stage_done", "stage": "score", "time": t} for t in (1.0, 5.0)]
    assert stage_ends(ends) == {"score": 5.0}
