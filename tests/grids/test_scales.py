"""Tests of scale formats: the steps read back are those that codes were computed with, also under torch.compile."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.config.spec import part
from bitgolf.errors import CorruptFileError, RecipeError
from bitgolf.grids.scales import MIN_STEP, Float16Scale, Float32Scale, LogScale, ScaleFormat
from helpers.examples import examples

SCALES = [
    Float16Scale(),
    Float32Scale(),
    LogScale(steps_per_doubling=4),
    LogScale(steps_per_doubling=8),
    LogScale(steps_per_doubling=16),
]
steps = st.floats(MIN_STEP, 70_000, width=32)


@settings(max_examples=examples(100), deadline=None)
@given(values=st.lists(steps, min_size=1, max_size=9), scale=st.sampled_from(SCALES))
def test_what_is_read_back_is_what_codes_were_reckoned_with(values: list[float], scale: ScaleFormat) -> None:
    rounded = scale.round(torch.tensor(values))
    finite = rounded[rounded.isfinite()]
    stored = scale.store(finite)
    assert stored.dtype == scale.dtype and torch.equal(scale.read(stored), finite)
    assert torch.equal(scale.round(finite), finite), "what is a step stays"
    assert (finite <= scale.max_step).all() and (finite >= MIN_STEP).all()


def test_half_is_float16_to_the_nearest() -> None:
    ends = torch.tensor([MIN_STEP, 2.0**-14, 65504.0, 65519.99, 65520.0, 1e9, torch.inf])
    step = torch.cat([torch.logspace(-5.4, 4.9, 50_000), ends])
    assert torch.equal(Float16Scale().round(step), step.half().float())
    every = torch.arange(64, 0x7C00, dtype=torch.int16).view(torch.float16).float()
    between = (every[1:] + every[:-1]) / 2  # ties go to the even one
    assert torch.equal(Float16Scale().round(between), between.half().float())


@pytest.mark.parametrize("steps_per_doubling", [4, 8, 16])
def test_log_steps_are_powers_of_two_from_the_floor_on(steps_per_doubling: int) -> None:
    every = LogScale(steps_per_doubling=steps_per_doubling).read(np.arange(256, dtype=np.uint8)).double()  # pyright: ignore[reportArgumentType]
    wanted = MIN_STEP * 2.0 ** (torch.arange(256).double() / steps_per_doubling)
    assert ((every - wanted) / wanted).abs().max() < 2.0**-24
    assert every[0] == MIN_STEP and every[steps_per_doubling] == 2 * MIN_STEP


def test_log_steps_are_the_same_bits_on_every_machine() -> None:
    read = LogScale(steps_per_doubling=16).read(np.arange(256, dtype=np.uint8)).numpy()
    assert hashlib.sha256(read.astype("<f4").tobytes()).hexdigest()[:16] == "a126035da7070861"


@settings(max_examples=examples(100), deadline=None)
@given(step=steps)
def test_a_log_step_is_the_next_one_upwards(step: float) -> None:
    scale = LogScale(steps_per_doubling=8)
    every = scale.read(np.arange(256, dtype=np.uint8))
    found = scale.round(torch.tensor([step]))
    if step > scale.max_step:
        assert found.isinf()
    else:
        assert found == every[every >= step][0]


def test_a_step_that_is_none_stays_none() -> None:
    for scale in SCALES:
        assert not scale.round(torch.tensor([torch.nan, torch.inf])).isfinite().any()


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, -0.0])
def test_a_half_that_is_no_step_is_damage(value: float) -> None:
    with pytest.raises(CorruptFileError, match="scale"):
        Float16Scale().read(np.array([1.0, value], np.float16))


def test_scales_are_compared_by_what_they_store() -> None:
    assert (
        LogScale() == LogScale(steps_per_doubling=16) != LogScale(steps_per_doubling=8)
        and LogScale() != Float16Scale() == Float16Scale()
    )
    assert hash(LogScale()) == hash(LogScale(steps_per_doubling=16))
    with pytest.raises(RecipeError):
        part(LogScale, steps_per_doubling=5)  # pyright: ignore[reportCallIssue, reportArgumentType]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler for inductor")
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_a_compiler_that_fuses_leaves_no_rounding_out() -> None:
    """All scales in one graph, since each call of the C++ compiler takes seconds."""
    step = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 0.1 + MIN_STEP
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: [3 * scale.round(x) for scale in SCALES], fullgraph=True)
    for found, scale in zip(compiled(step), SCALES, strict=True):
        assert torch.equal(found, 3 * scale.round(step)), scale
