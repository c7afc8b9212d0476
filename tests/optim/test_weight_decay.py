"""Weight decay: schedules at their points, cautious decay, the published ramp, and unchanged results without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.optim.adam import Adam
from bitgolf.optim.algorithm import UpdateAlgorithm
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import Constant, InverseLRRamp, PiecewiseLinear, Schedule
from bitgolf.runtime.progress import TrainingProgress

BOTH: list[type[Muon] | type[Adam]] = [Muon, Adam]
DIP = PiecewiseLinear(points=((0.4, 1.0), (0.85, 0.65), (1.0, 1.5)))
DEEP_DIP = PiecewiseLinear(points=((0.4, 1.0), (0.85, 0.5), (1.0, 1.75)))
TAPER = PiecewiseLinear(points=((0.7, 1.0), (1.0, 0.5)))
DECAYS = [part(PiecewiseLinear, points=DIP.points), part(PiecewiseLinear, points=TAPER.points), part(InverseLRRamp)]


def at(progress: float, rate: float = 1.0) -> TrainingProgress:
    return TrainingProgress(0, 0, progress * 600, 600.0, rate)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(algorithm: UpdateAlgorithm, *, zero: bool = False, steps: int = 5) -> Tensor:
    """A matrix after several steps with a decreasing learning rate. `zero`: all gradients are zero."""
    params = [randn(8, 6)]
    state = algorithm.init_state(params)
    for step in range(steps):
        grad = torch.zeros(8, 6) if zero else randn(8, 6, seed=step + 1)
        algorithm.step(params, [grad], state, TrainingProgress(step, steps, 0.0, 0.0), 1 - step / steps)
    return params[0]


# ---- schedules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "knots"),
    [
        (DIP, {0: 1, 0.2: 1, 0.4: 1, 0.625: 0.825, 0.85: 0.65, 0.925: 1.075, 1: 1.5}),
        (DEEP_DIP, {0: 1, 0.4: 1, 0.85: 0.5, 1: 1.75}),
        (TAPER, {0: 1, 0.4: 1, 0.7: 1, 0.85: 0.75, 1: 0.5}),
        (PiecewiseLinear(points=((0.0, 1.0), (1.0, 0.0))), {0: 1, 0.25: 0.75, 1: 0}),
    ],
)
def test_values_at_the_knots(schedule: Schedule, knots: dict[float, float]) -> None:
    assert [schedule.value(at(f)) for f in knots] == pytest.approx(list(knots.values()))


@pytest.mark.parametrize(("name", "schedule"), [("default", DIP), ("strong", DEEP_DIP)])
def test_published_hold_and_ramp(shared: Path, name: str, schedule: Schedule) -> None:
    oracle = load_file(shared / "oracles/micro.safetensors")
    done, values = (oracle[f"sched/wd_train_pr1493_{name}/{key}"].tolist() for key in ("frac", "value"))
    assert [schedule.value(at(f)) for f in done] == pytest.approx(values, abs=1e-6)


@given(st.sampled_from([DIP, DEEP_DIP, TAPER]), st.floats(0, 1))
def test_continuity(schedule: Schedule, f: float) -> None:
    assert abs(schedule.value(at(f)) - schedule.value(at(max(0.0, f - 1e-6)))) < 1e-4


def test_ramping_decay_follows_the_rate_and_peaks_at_two_thirds() -> None:
    ramp = InverseLRRamp()
    assert [ramp.value(at(0.5, s)) for s in (1.2, 1.0, 0.5, 0.0)] == pytest.approx([0.02, 0.02, 0.05, 0.08])
    acting = {k / 300: k / 300 * ramp.value(at(0.0, k / 300)) for k in range(301)}
    peak = max(acting, key=lambda s: acting[s])
    assert peak == pytest.approx(2 / 3) and acting[peak] == pytest.approx(0.08 / 3)
    assert acting[1.0] == pytest.approx(0.02) and acting[0.0] == 0


@pytest.mark.parametrize("scale", [1.0, 0.6, 0.1])
def test_published_ramping_decay(scale: float) -> None:
    """Parameter Golf #675: W *= 1 - wd lr s with wd = 0.02 + 0.06 max(0, 1 - s)."""
    muon, w = Muon(lr=0.04, weight_decay=1.0, weight_decay_schedule=part(InverseLRRamp)), randn(8, 8)
    params = [w.clone()]
    muon.step(params, [torch.zeros(8, 8)], muon.init_state(params), TrainingProgress(0, 10, 0.0, 0.0), scale)
    torch.testing.assert_close(
        params[0], w * (1 - (0.02 + 0.06 * max(0.0, 1 - scale)) * 0.04 * scale), rtol=1e-7, atol=0
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: PiecewiseLinear(points=((0.5, 1.0),)),
        lambda: PiecewiseLinear(points=((0.5, 1.0), (0.5, 0.0))),
        lambda: PiecewiseLinear(points=((0.5, 1.0), (1.1, 0.0))),
        lambda: PiecewiseLinear(points=((-0.1, 1.0), (1.0, 0.0))),
        lambda: Muon(weight_decay_schedule=part(PiecewiseLinear, points=TAPER.points)),
        lambda: Adam(lr=0.1, cautious_weight_decay=True),
    ],
)
def test_settings_that_make_no_sense(make: Any) -> None:
    with pytest.raises(RecipeError):
        make()


# ---- what decays -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
def test_without_a_schedule_the_run_is_the_same_bit_for_bit(kind: type[Muon] | type[Adam]) -> None:
    plain = run(kind(lr=0.1, weight_decay=0.3))
    assert torch.equal(plain, run(kind(lr=0.1, weight_decay=0.3, weight_decay_schedule=part(Constant))))
    for decay in DECAYS:
        assert not torch.equal(plain, run(kind(lr=0.1, weight_decay=0.3, weight_decay_schedule=decay)))
    assert not torch.equal(plain, run(kind(lr=0.1)))


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("decay", DECAYS)
def test_the_schedule_multiplies_and_reads_the_rate(kind: type[Muon] | type[Adam], decay: Spec[Schedule]) -> None:
    want, schedule = randn(8, 6), decay()
    for step in range(5):
        rate = 1 - step / 5
        want = want * (1 - 0.1 * rate * 0.3 * schedule.value(TrainingProgress(step, 5, 0.0, 0.0, rate)))
    torch.testing.assert_close(run(kind(lr=0.1, weight_decay=0.3, weight_decay_schedule=decay), zero=True), want)


@pytest.mark.parametrize("kind", BOTH)
def test_cautious_decay_acts_only_where_the_update_agrees(kind: type[Muon] | type[Adam]) -> None:
    start, grad = randn(8, 6), randn(8, 6, seed=1)

    def step(**settings: Any) -> Tensor:
        algorithm, params = kind(lr=0.1, **settings), [start.clone()]
        algorithm.step(params, [grad], algorithm.init_state(params), TrainingProgress(0, 10, 0.0, 0.0), 1.0)
        return params[0]

    bare, cautious, plain = step(), step(weight_decay=0.5, cautious_weight_decay=True), step(weight_decay=0.5)
    agree = (start - bare) * start >= 0  # the update moves this weight towards zero as well
    assert 0.2 < agree.float().mean() < 0.8
    torch.testing.assert_close(cautious[agree], plain[agree], rtol=0, atol=1e-7)
    torch.testing.assert_close(cautious[~agree], bare[~agree], rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", BOTH)
def test_cautious_decay_acts_without_a_gradient(kind: type[Muon] | type[Adam]) -> None:
    torch.testing.assert_close(
        run(kind(lr=0.1, weight_decay=0.5, cautious_weight_decay=True), zero=True),
        run(kind(lr=0.1, weight_decay=0.5), zero=True),
    )
