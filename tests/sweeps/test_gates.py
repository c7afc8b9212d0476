"""Gates: what ends a run early, the reason in words, and that a stopped run is not run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.config.spec import Spec, part
from bitgolf.pipeline.stopped import read_stop
from bitgolf.sweeps.factors import FactorLevel
from bitgolf.sweeps.gates import BehindBest, Curve, CurvePoint, Gate, GatedRun, LossNotFinite, OverCap, TrainedBpbAbove
from bitgolf.sweeps.summary import SweepSummary, VariantSummary
from bitgolf.training.validation import Validation
from helpers.toy_sweeps import executed_stages, run_toy_sweep, toy_sweep

VALIDATED = f"train.validation={part(Validation, tokens=300, every_steps=2)!r}"
STILL = tuple(f"train.optim.{i}.use.lr=0" for i in range(3))
"""Edits with which nothing is learnt."""


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"event": kind, **fields}


def curve(*bpb: float) -> Curve:
    """Scores after every ten steps, of a second each."""
    return tuple(CurvePoint(10 * (i + 1), float(10 * i + 10), value) for i, value in enumerate(bpb))


def reason(gate: Gate, step: int, bpb: float, *groups: tuple[Curve, ...], seconds: float = 0.0) -> str:
    found = event("validation", step=step, bpb=bpb, training_seconds=seconds)
    return gate.reason(found, GatedRun(Path(), groups))


def test_behind_the_best_variant_by_more_than_the_noise_between_seeds() -> None:
    base, better = (curve(3.0, 2.0), curve(3.2, 2.2)), (curve(2.9, 1.9), curve(3.1, 2.1))
    noise = 3 * 0.2 / 2**0.5
    assert reason(BehindBest(), 20, 2.0 + noise - 0.01, base, better) == ""
    found = reason(BehindBest(), 20, 2.0 + noise + 0.01, base, better)
    assert found == "2.4343 bpb at step 20, 0.4343 behind the best (margin 0.4243)"
    assert reason(BehindBest(deviations=100), 20, 3.0, base, better) == ""
    assert reason(BehindBest(margin=0.1), 20, 2.11, base, better)


def test_without_a_reference_no_run_is_ended() -> None:
    assert reason(BehindBest(), 20, 9.0) == "", "there is no earlier run"
    assert reason(BehindBest(), 20, 9.0, (curve(3.0, 2.0),)) == "", "one seed has no spread"
    assert reason(BehindBest(margin=0.1), 20, 9.0, (curve(3.0, 2.0),))
    assert reason(BehindBest(margin=0.1), 30, 9.0, (curve(3.0, 2.0),)) == "", "the reference ended before"
    assert reason(BehindBest(margin=0.1), 5, 9.0, (curve(3.0, 2.0),)) == "", "the reference began later"
    assert reason(BehindBest(margin=0.1, after=0.6), 10, 9.0, (curve(3.0, 2.0),)) == "", "too early"


def test_the_same_point_may_be_that_of_the_clock() -> None:
    gate = BehindBest(margin=0.1, by="seconds")
    assert reason(gate, 15, 2.0, (curve(3.0, 2.0),), seconds=10.0) == ""
    assert "at 20.0 s" in reason(gate, 15, 2.2, (curve(3.0, 2.0),), seconds=20.0)


@given(
    values=st.lists(st.floats(0.5, 5.0), min_size=2, max_size=8),
    step=st.integers(1, 90),
    excess=st.floats(-1.0, 1.0).filter(lambda x: abs(x - 0.25) > 1e-6),
)
def test_between_two_points_the_reference_is_a_line(values: list[float], step: int, excess: float) -> None:
    """A run is ended exactly if it is more than the margin above the line, within the reference's steps."""
    known, steps = curve(*values), [10 * (i + 1) for i in range(len(values))]
    if not 10 <= step <= steps[-1]:
        assert reason(BehindBest(margin=0.25, after=0.0), step, 9.0, (known,)) == ""
        return
    i = min(step // 10 - 1, len(values) - 2)
    line = values[i] + (step - steps[i]) / 10 * (values[i + 1] - values[i])
    ended = reason(BehindBest(margin=0.25, after=0.0), step, line + excess, (known,))
    assert bool(ended) == (excess > 0.25)


def test_over_the_cap_by_forecast_or_by_its_bytes() -> None:
    run = GatedRun(Path())
    assert OverCap().reason(event("forecast", bytes=1130, cap=1000), run) == "", "forecasts err by up to 13 %"
    assert OverCap().reason(event("forecast", bytes=1131, cap=1000), run)
    assert OverCap(forecast_error=0.0).reason(event("forecast", bytes=1001, cap=1000), run)
    found = OverCap().reason(event("over_cap", bytes=1001, cap=1000), run)
    assert found == "the artifact has 1,001 bytes, over the cap of 1,000"
    assert OverCap().reason(event("step", step=1), run) == ""


# ---- in a sweep ----------------------------------------------------------------------------------------------------


def gated(folder: Path, gate: Spec[Gate], *levels: Spec[FactorLevel], **settings: Any) -> SweepSummary:
    return run_toy_sweep(folder, toy_sweep(*levels, gates=(gate,), **settings))


def row(summary: SweepSummary, name: str) -> VariantSummary:
    return next(found for found in summary.variants if found.name == name)


@pytest.mark.parametrize(
    ("gate", "edit", "words", "trained"),
    [
        (part(OverCap), "model.dim=128", "forecast to have", 0),
        (part(OverCap), "pack.cap=15000", "over the cap of 15,000", 0),
        (part(TrainedBpbAbove, limit=0.5), "Muon.lr=0.02", "before quantization, above 0.5", 1),
    ],
    ids=["forecast", "artifact", "before quantization"],
)
def test_a_gate_stops_a_run_and_it_is_not_run_again(
    gate: Spec[Gate], edit: str, words: str, trained: int, tmp_path: Path
) -> None:
    level = part(FactorLevel, name="x", edits=(edit,))
    summary = gated(tmp_path / "sweep", gate, level, seeds=(0, 1))
    assert words in row(summary, "x").stopped and row(summary, "x").mean is None
    assert [run.state for run in row(summary, "x").runs] == ["stopped", "stopped"]
    assert "not run, since seed 0 was stopped" in row(summary, "x").runs[1].reason
    assert not list((tmp_path / "sweep").glob("x-*-s1")), "no money is spent on further seeds"
    before = executed_stages(tmp_path / "sweep")
    assert executed_stages(tmp_path / "sweep", "x-*")["train"] == trained
    assert gated(tmp_path / "sweep", gate, level, seeds=(0, 1)) == summary
    assert executed_stages(tmp_path / "sweep") == before


def test_a_run_that_diverges_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from bitgolf.training.trainer import Trainer

    original = Trainer.step

    def nan_at_high_rates(self: Trainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = original(self, *args, **kwargs)
        return loss * float("nan") if self.settings.optim[0]["use.lr"] == 100 else loss

    monkeypatch.setattr(Trainer, "step", nan_at_high_rates)
    fast = part(FactorLevel, name="fast", edits=("Muon.lr=100",))
    summary = gated(tmp_path / "sweep", part(LossNotFinite), fast, seeds=(0,))
    assert row(summary, "fast").stopped.startswith("diverged: the loss is nan at step 1")
    assert row(summary, "base").mean is not None


def test_a_variant_that_is_behind_is_stopped_between_two_steps(tmp_path: Path) -> None:
    folder, slow = tmp_path / "sweep", part(FactorLevel, name="slow", edits=STILL)
    gate = part(BehindBest, margin=0.05)
    summary = gated(folder, gate, slow, edits=(VALIDATED,), seeds=(0,))
    assert "behind the best (margin 0.0500)" in row(summary, "slow").stopped
    stopped = next(folder.glob("slow-*-s0"))
    assert (found := read_stop(stopped)) and found.when.startswith("after step ") and found.when < "after step 8"
    assert not (stopped / "averaged.safetensors").exists()


def test_without_its_gate_a_stopped_run_goes_on(tmp_path: Path) -> None:
    folder, level = tmp_path / "sweep", part(FactorLevel, name="x", edits=("Muon.lr=0.02",))
    gated(folder, part(TrainedBpbAbove, limit=0.5), level, seeds=(0,))
    summary = run_toy_sweep(folder, toy_sweep(level, seeds=(0,)))
    assert row(summary, "x").mean is not None and executed_stages(folder, "x-*")["train"] == 1
