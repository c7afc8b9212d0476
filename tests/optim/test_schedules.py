"""Schedules compared with those of the published scripts, and properties of each schedule."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.config.spec import part
from bitgolf.errors import RecipeError
from bitgolf.optim.schedules import Constant, LinearRamp, Rewarmup, Schedule, WarmdownFraction, WarmdownSteps, Warmup
from bitgolf.runtime.progress import TrainingProgress


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "oracles/micro.safetensors")


def by_clock(
    oracle: dict[str, Tensor], name: str, seconds: float, steps: int = 0
) -> list[tuple[TrainingProgress, float]]:
    columns = [oracle[f"sched/{name}/{key}"].tolist() for key in ("step", "elapsed_ms", "value")]
    return [
        (TrainingProgress(int(step), steps, ms / 1000, seconds), value)
        for step, ms, value in zip(*columns, strict=True)
    ]


def by_step(oracle: dict[str, Tensor], name: str, steps: int) -> list[tuple[TrainingProgress, float]]:
    columns = [oracle[f"sched/{name}/{key}"].tolist() for key in ("step", "value")]
    return [(TrainingProgress(int(step), steps, 0.0, 0.0), value) for step, value in zip(*columns, strict=True)]


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("lr_baseline_wall_w1200_n13780", 1200),
        ("lr_pr164_wall_w3000_n8390", 3000),
        ("lr_pr1512_wall_w4000_n6754", 4000),
        ("lr_baseline_wall_w20000_n13780_always_decaying", 20000),
    ],
)
def test_warmdown_in_steps_on_the_clock(oracle: dict[str, Tensor], name: str, width: int) -> None:
    schedule = WarmdownSteps(steps=width)
    for now, value in by_clock(oracle, name, 600.0):
        assert schedule.value(now) == pytest.approx(value, abs=1e-5)


def test_warmdown_in_steps_without_a_clock(oracle: dict[str, Tensor]) -> None:
    schedule = WarmdownSteps(steps=1200)
    points = by_step(oracle, "lr_baseline_iter_w1200_it20000", 20_000)
    for now, value in points[:-1]:
        assert schedule.value(now) == pytest.approx(value, abs=1e-6)
    # The script's function returns 1 for the step after the last one, which is never trained.
    assert (points[-1][1], schedule.value(points[-1][0])) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("name", "width", "floor"), [("lr_pr1855_frac_w0.85_min0.1", 0.85, 0.1), ("lr_pr1493_frac_w0.72_min0", 0.72, 0.0)]
)
def test_warmdown_by_fraction(oracle: dict[str, Tensor], name: str, width: float, floor: float) -> None:
    schedule = WarmdownFraction(fraction=width, floor=floor)
    for done, value in zip(oracle[f"sched/{name}/frac"].tolist(), oracle[f"sched/{name}/value"].tolist(), strict=True):
        assert schedule.value(TrainingProgress(0, 0, done * 590.0, 590.0)) == pytest.approx(value, abs=1e-6)


def test_warmdown_by_fraction_of_steps_and_of_the_clock(oracle: dict[str, Tensor]) -> None:
    schedule = WarmdownFraction(fraction=0.2)
    points = by_step(oracle, "lr_640_iter_0.2_it10000", 10_000) + by_clock(oracle, "lr_640_wall_0.2_n6530", 599.0)
    for now, value in points:
        assert schedule.value(now) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "ramp"),
    [
        ("momentum_baseline", LinearRamp(start=0.85, end=0.95, steps=500)),
        ("momentum_pr164_1493_1512", LinearRamp(start=0.92, end=0.99, steps=1500)),
        ("momentum_pr1855", LinearRamp(start=0.92, end=0.97, steps=1500)),
        ("momentum_ternary640", LinearRamp(start=0.85, end=0.95, steps=500)),
    ],
)
def test_momentum(oracle: dict[str, Tensor], name: str, ramp: LinearRamp) -> None:
    for now, value in by_step(oracle, name, 20_000):
        assert ramp.value(now) == pytest.approx(value, abs=1e-6)


def test_progress_on_the_clock(oracle: dict[str, Tensor]) -> None:
    """`TrainingProgress.fraction` under a time limit. The budget of #1855 is 600 s minus half a second."""
    elapsed, done = (oracle[f"sched/pr1855_frac_of_elapsed/{key}"].tolist() for key in ("elapsed_ms", "value"))
    assert [TrainingProgress(0, 0, ms / 1000, 599.5).fraction for ms in elapsed] == pytest.approx(done, abs=1e-6)


def test_slow_first_steps_lower_the_rate_for_a_moment() -> None:
    """The remaining steps are estimated: after a first step of 200 ms (mean 80 ms), fewer than 4000 seem to remain."""
    assert WarmdownSteps(steps=4000).value(TrainingProgress(1, 0, 0.2, 600.0)) == pytest.approx(0.74975)
    assert WarmdownSteps(steps=4000).value(TrainingProgress(100, 0, 8.0, 600.0)) == 1.0


def test_the_first_limit_counts() -> None:
    """With a step limit and a time limit, the one that is reached first determines the warm-down."""
    schedule = WarmdownSteps(steps=100)
    assert schedule.value(TrainingProgress(950, 1000, 10.0, 600.0)) == 0.5
    assert schedule.value(TrainingProgress(950, 10**6, 570.0, 600.0)) == pytest.approx(0.5)


def test_warmup_multiplies_what_follows() -> None:
    schedule = Warmup(steps=4, then=part(WarmdownSteps, steps=10))
    values = [schedule.value(TrainingProgress(step, 10, 0.0, 0.0)) for step in range(10)]
    assert values == pytest.approx([0.25, 0.45, 0.6, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


SCHEDULES: list[Schedule] = [
    WarmdownSteps(steps=7),
    WarmdownFraction(fraction=0.3, floor=0.05),
    Warmup(steps=5, then=part(WarmdownFraction, fraction=1.0)),
    Constant(value=0.5),
]


@given(st.sampled_from(SCHEDULES), st.integers(0, 50), st.integers(1, 50), st.floats(0, 100), st.floats(0, 100))
def test_rates_are_factors(schedule: Schedule, step: int, steps: int, elapsed: float, seconds: float) -> None:
    value = schedule.value(TrainingProgress(step, max(steps, step), elapsed, seconds))
    assert 0.0 <= value <= 1.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearRamp(start=0.0, end=1.0, steps=0),
        lambda: WarmdownSteps(steps=0),
        lambda: WarmdownFraction(fraction=0.0),
        lambda: WarmdownFraction(fraction=0.5, floor=1.0),
        lambda: Warmup(steps=-1, then=part(Constant)),
    ],
)
def test_schedules_that_make_no_sense(make: object) -> None:
    with pytest.raises(RecipeError):
        make()  # pyright: ignore[reportCallIssue]


# ---- Rewarmup ----------------------------------------------------------------------------------------------------------


def rewarmup(steps: int = 32) -> Schedule:
    return part(Rewarmup, after=(0.1, 0.7), steps=steps, then=part(Constant, value=0.5))()


def test_the_rate_rises_again_after_each_fraction() -> None:
    """As in #2014: (t - s + 1) / 32 at the steps t from the change s on, which begins beyond the fraction."""
    schedule = rewarmup()
    found = [schedule.value(TrainingProgress(step, 1000, 0.0, 0.0)) for step in range(1000)]
    for step, value in enumerate(found):
        since = step - (101 if step < 701 else 701)  # step 100 is at 0.1 exactly, which is not beyond it
        assert value == pytest.approx(0.5 * (min(1.0, (since + 1) / 32) if since >= 0 else 1.0)), step


def test_under_a_time_limit_it_counts_the_steps_from_the_change() -> None:
    schedule = rewarmup(steps=4)
    seconds = [0.0, 9.0, 10.0, 11.0, 30.0, 31.0, 32.0, 33.0]
    found = [2 * schedule.value(TrainingProgress(step, 0, second, 100.0)) for step, second in enumerate(seconds)]
    assert found == [1.0, 1.0, 1.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_a_rise_that_is_interrupted_continues() -> None:
    """The state of a schedule is in the checkpoint, so a resumed run has the same rates; a later stage starts a new one."""
    whole, resumed = rewarmup(), rewarmup()
    whole.value(TrainingProgress(0, 1000, 0.0, 0.0))
    whole.value(TrainingProgress(101, 1000, 0.0, 0.0))
    for name, value in whole.state().items():
        resumed.state()[name].copy_(value)
    now = TrainingProgress(110, 1000, 0.0, 0.0)
    assert resumed.value(now) == whole.value(now) == 0.5 * 10 / 32
    assert rewarmup().value(now) == 0.5 / 32, "without its state a schedule takes the first step for the change"


def test_a_run_that_starts_again_has_no_rise_left() -> None:
    """As after the rehearsal of a later phase."""
    schedule = rewarmup()
    schedule.value(TrainingProgress(720, 1000, 0.0, 0.0))
    assert schedule.value(TrainingProgress(0, 1000, 0.0, 0.0)) == 0.5


@pytest.mark.parametrize("after", [(), (0.5, 0.5), (0.7, 0.1)])
def test_fractions_must_ascend(after: tuple[float, ...]) -> None:
    with pytest.raises(RecipeError, match="after must be one or more ascending fractions"):
        part(Rewarmup, after=after, steps=3, then=part(Constant))()
