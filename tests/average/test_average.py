"""Weight averages: arithmetic compared with plain loops, and properties of each average."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitgolf.average.average import Average, AverageState
from bitgolf.average.ema import EMA
from bitgolf.average.lawa import LAWA
from bitgolf.average.swa import SWA
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.runtime.progress import TrainingProgress
from helpers.examples import examples

ALL = [
    part(EMA),
    part(EMA, bias_correction=True),
    part(EMA, since=0.2),
    part(SWA, every=1, lr_scale_below=2.0),
    part(LAWA, every=1, keep=3, lr_scale_below=2.0),
]
IDS = ["ema", "ema-corrected", "ema-late", "swa", "lawa"]


def path(steps: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """Weights before the first step and after each step."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 4, generator=generator).to(dtype) for _ in range(steps + 1)]


def run(
    average: Average, weights: list[Tensor], scales: list[float] | None = None, *, max_steps: int = 0
) -> AverageState:
    state = average.init_state([weights[0]])
    for step, w in enumerate(weights[1:], start=1):
        scale = scales[step - 1] if scales else 1.0
        average.update(state, [w], TrainingProgress(step, max_steps or len(weights) - 1, 0.0, 0.0), scale)
    return state


def averaged(average: Average, weights: list[Tensor], scales: list[float] | None = None) -> Tensor:
    return average.result(run(average, weights, scales), [weights[-1]])[0]


def test_ema_is_the_recurrence_from_the_initial_weights() -> None:
    weights = path(20)
    want = weights[0].double()
    for w in weights[1:]:
        want = 0.9 * want + 0.1 * w.double()
    torch.testing.assert_close(averaged(EMA(decay=0.9), weights).double(), want, atol=1e-6, rtol=0)


def test_ema_without_decay_is_the_live_weights() -> None:
    weights = path(5)
    assert torch.equal(averaged(EMA(decay=0.0), weights), weights[-1])


def test_ema_corrected_forgets_the_start() -> None:
    weights = path(20)
    powers = 0.9 ** torch.arange(19, -1, -1, dtype=torch.float64)
    want = sum(p * w.double() for p, w in zip(powers, weights[1:], strict=True)) / powers.sum()
    got = averaged(EMA(decay=0.9, bias_correction=True), weights)
    torch.testing.assert_close(got.double(), want, atol=1e-6, rtol=0)
    moved = [weights[0] + 100, *weights[1:]]
    assert torch.equal(averaged(EMA(decay=0.9, bias_correction=True), moved), got)
    assert not torch.allclose(averaged(EMA(decay=0.9), moved), averaged(EMA(decay=0.9), weights))


@pytest.mark.parametrize("bias_correction", [False, True])
def test_ema_of_the_end_of_a_run_does_not_see_its_start(bias_correction: bool) -> None:
    """From step 10 of 20 on, the mean is that of a run that begins with the weights of step 10."""
    weights, ema = path(20), partial(EMA, decay=0.9, bias_correction=bias_correction)
    late = averaged(ema(since=0.5), weights)
    assert torch.equal(late, averaged(ema(since=0.5), [w + 9 for w in weights[:10]] + weights[10:]))
    first = weights[9:] if bias_correction else weights[10:]
    torch.testing.assert_close(late, averaged(ema(), first), atol=1e-6, rtol=0)


def test_ema_every_keeps_its_horizon() -> None:
    """For weights that change only every k steps, the average is the same with `every` = 1 and `every` = k."""
    weights = path(1)[:1] + [w for w in path(6, seed=1) for _ in range(4)]
    torch.testing.assert_close(
        averaged(EMA(decay=0.9, every=4), weights), averaged(EMA(decay=0.9), weights), atol=1e-6, rtol=0
    )


def test_swa_is_the_mean_of_the_late_snapshots() -> None:
    weights, scales = path(20), [1 - step / 20 for step in range(20)]
    got = averaged(SWA(every=3, lr_scale_below=0.5), weights, scales)
    # Steps 12, 15 and 18 (counted from 1) had learning rate factors of 0.45, 0.30 and 0.15.
    torch.testing.assert_close(got, (weights[12] + weights[15] + weights[18]) / 3, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("steps", "used"), [(18, [12, 15, 18]), (19, [15, 18, 19]), (13, [12, 13]), (12, [12])])
def test_lawa_is_the_mean_of_the_last_ones_and_the_final(steps: int, used: list[int]) -> None:
    weights, scales = path(steps), [1 - step / 20 for step in range(steps)]
    got = averaged(LAWA(every=3, keep=3, lr_scale_below=0.5), weights, scales)
    torch.testing.assert_close(got, torch.stack([weights[i] for i in used]).mean(0), atol=1e-6, rtol=0)


@settings(max_examples=examples(40), deadline=None)
@given(every=st.integers(1, 4), keep=st.integers(2, 5), steps=st.integers(4, 30))
def test_lawa_equals_a_plain_list(every: int, keep: int, steps: int) -> None:
    weights = path(steps)
    checkpoints = [step for step in range(1, steps + 1) if step % every == 0]
    used = sorted({*checkpoints, steps})[-keep:]
    got = averaged(LAWA(every=every, keep=keep, lr_scale_below=2.0), weights)
    torch.testing.assert_close(got, torch.stack([weights[i] for i in used]).mean(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("node", ALL, ids=IDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_constant_averages_to_itself(node: Spec[Average], dtype: torch.dtype) -> None:
    """Holds for bfloat16 weights too, since the mean is computed in float32 and does not drift."""
    weights = path(0, dtype) * 301
    got = averaged(node(), weights)
    assert got.dtype == dtype
    tolerance = 0.0 if node.cls is not EMA or dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(got, weights[0], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("node", ALL, ids=IDS)
def test_bfloat16_is_accumulated_in_float32(node: Spec[Average]) -> None:
    weights = path(50, torch.bfloat16)
    exact = averaged(node(), [w.float() for w in weights])
    assert torch.equal(averaged(node(), weights), exact.bfloat16())


@pytest.mark.parametrize("node", ALL, ids=IDS)
def test_integers_pass_through(node: Spec[Average]) -> None:
    average, counts = node(), torch.tensor([3, 5])
    w = torch.ones(2, 2)
    state = average.init_state([w, counts, 2 * w])
    average.update(state, [w, counts, 2 * w], TrainingProgress(1, 1, 0.0, 0.0), 1.0)
    got = average.result(state, [w, counts + 1, 2 * w])
    assert torch.equal(got[1], counts + 1) and got[1].dtype == torch.int64
    torch.testing.assert_close(got[2], 2 * w)


@pytest.mark.parametrize("node", ALL, ids=IDS)
def test_results_share_nothing_and_change_nothing(node: Spec[Average]) -> None:
    weights = path(5)
    average = node()
    state = run(average, weights)
    before = {key: [t.clone() for t in tensors] for key, tensors in state.items()}
    live = weights[-1].clone()
    average.result(state, [live])[0].fill_(7.0)
    assert torch.equal(live, weights[-1])
    assert all(torch.equal(a, b) for key in state for a, b in zip(state[key], before[key], strict=True))


@pytest.mark.parametrize("node", ALL, ids=IDS)
def test_a_copied_state_goes_on_exactly(node: Spec[Average]) -> None:
    weights, average = path(12), node()
    state = run(average, weights[:7], max_steps=12)
    again = {key: [t.clone() for t in tensors] for key, tensors in state.items()}
    for each, other in ((state, average), (again, node())):
        for step, w in enumerate(weights[7:], start=7):
            other.update(each, [w], TrainingProgress(step, 12, 0.0, 0.0), 1.0)
    a, b = average.result(state, [weights[-1]])[0], average.result(again, [weights[-1]])[0]
    assert torch.equal(a, b) and torch.equal(a, averaged(node(), weights))


@pytest.mark.parametrize(
    "node",
    [part(EMA, every=100), part(SWA, every=1, lr_scale_below=0.1), part(LAWA, every=1, keep=3, lr_scale_below=0.1)],
    ids=["ema", "swa", "lawa"],
)
def test_an_average_that_did_nothing_is_an_error(node: Spec[Average]) -> None:
    with pytest.raises(BitgolfError, match="never took a snapshot") as caught:
        averaged(node(), path(9), [0.5] * 9)
    assert caught.value.where == node.name


@pytest.mark.parametrize(
    "node",
    [
        partial(part, EMA, decay=1.0),
        partial(part, EMA, every=0),
        partial(part, SWA, every=0, lr_scale_below=1.0),
        partial(part, LAWA, every=1, keep=1, lr_scale_below=1.0),
    ],
)
def test_settings_that_make_no_sense(node: partial[Spec[Average]]) -> None:
    with pytest.raises(RecipeError):
        node()
