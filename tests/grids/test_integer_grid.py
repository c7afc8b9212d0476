"""Integer grids and clip rules: bounds, symmetry, equivariance, floors (properties Q1 to Q3)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.errors import RecipeError
from bitgolf.grids.clip import Clip, MaxClip, QuantileClip, SdClip, SearchClip
from bitgolf.grids.integer import STEP_FLOOR, IntGrid
from bitgolf.pack.planes import entropy_bits
from bitgolf.spec import Spec, part

CLIPS: list[Clip] = [
    MaxClip(),
    QuantileClip(quantile=0.9),
    SdClip(k=2.5),
    SearchClip(quantiles=(0.8, 0.95, 1.0)),
    SearchClip(quantiles=(0.8, 0.95, 1.0), per_row=False),
]
NAMES = ["max", "quantile", "sd", "search rows", "search tensor"]


def weights(seed: int, rows: int = 4, columns: int = 64, scale: float = 1.0) -> torch.Tensor:
    """Rows of different spread with a few outliers."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, columns, generator=generator) * torch.rand(rows, 1, generator=generator) * scale
    return torch.where(torch.rand(w.shape, generator=generator) < 0.03, 8 * w, w)


def code(grid: IntGrid, clip: Clip, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    step = grid.steps(clip.clip(w, grid))[:, None]
    return grid.round(w, step), step


@pytest.mark.parametrize("clip", CLIPS, ids=NAMES)
@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(2, 8),
    full=st.booleans(),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([1e-7, 1e-3, 1.0, 1e3]),
)
def test_error_is_half_a_step_and_what_was_clipped(clip: Clip, bits: int, full: bool, seed: int, scale: float) -> None:
    grid, w = IntGrid(bits=bits, full_range=full), weights(seed, scale=scale)
    codes, step = code(grid, clip, w)
    back, s = grid.expand(codes, step).double(), step.double()
    excess = (w.double() - w.double().clamp(grid.low * s, grid.top * s)).abs()
    assert ((w - back).abs() <= s / 2 * (1 + 1e-6) + excess + 1e-6 * w.abs()).all()
    assert grid.low <= int(codes.min()) and int(codes.max()) <= grid.top
    assert step.dtype == torch.float16 and codes.dtype == torch.int8


@pytest.mark.parametrize("clip", CLIPS, ids=NAMES)
def test_scaling_the_weights_leaves_the_codes_alone(clip: Clip) -> None:
    w, grid = weights(1), IntGrid(bits=6)
    codes, _ = code(grid, clip, w)
    assert codes.unique().numel() > 20
    for power in (2.0**-6, 0.25, 8.0):
        assert torch.equal(code(grid, clip, power * w)[0], codes)
    near = code(grid, clip, 3 * w)[0]  # float16 rounds the step differently: neighbours only, and few
    assert (near - codes).abs().max() <= 1 and (near != codes).float().mean() < 0.02


@pytest.mark.parametrize("clip", CLIPS, ids=NAMES)
def test_the_legacy_floor_is_not_scale_equivariant(clip: Clip) -> None:
    w, grid = weights(1), IntGrid(bits=6, floor=1 / 31)
    assert not torch.equal(code(grid, clip, w / 8)[0], code(grid, clip, w)[0])


def test_which_regime_the_floor_puts_a_row_in() -> None:
    row = torch.linspace(-0.3, 0.3, 101)[None]
    assert IntGrid(bits=6).steps(MaxClip().clip(row, IntGrid())).item() == torch.tensor(0.3 / 31).half().item()
    legacy = IntGrid(bits=6, floor=1 / 31)
    assert legacy.steps(MaxClip().clip(row, legacy)).item() == torch.tensor(1 / 31).half().item()


@pytest.mark.parametrize("clip", CLIPS, ids=NAMES)
def test_zero_stays_zero_and_signs_are_symmetric(clip: Clip) -> None:
    w = weights(2)
    w[1] = 0
    w[:, 5] = 0
    grid = IntGrid(bits=5)
    codes, step = code(grid, clip, w)
    assert not codes[1].any() and not codes[:, 5].any() and torch.isfinite(step).all()
    assert torch.equal(code(grid, clip, -w)[0], -codes)


def test_full_range_reaches_one_code_further_and_loses_symmetry() -> None:
    w = torch.tensor([[1.0] * 60 + [9.0, -9.0]])
    codes, _ = code(IntGrid(bits=6, full_range=True), QuantileClip(quantile=0.5), w)
    assert codes.min() == -32 and codes.max() == 31
    codes, _ = code(IntGrid(bits=6), QuantileClip(quantile=0.5), w)
    assert codes.min() == -31 and codes.max() == 31


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e-7])
def test_rows_too_small_for_float16_steps_lose_no_more_than_half_the_floor(scale: float) -> None:
    grid, w = IntGrid(), weights(3, scale=scale)
    codes, step = code(grid, MaxClip(), w)
    assert (step >= STEP_FLOOR).all()
    assert (grid.expand(codes, step) - w).abs().max() <= STEP_FLOOR / 2


def test_every_step_from_the_floor_up_keeps_its_precision() -> None:
    clip = torch.logspace(-9, 1, 5000)
    wanted = (clip / 31).clamp_min(STEP_FLOOR)
    assert ((IntGrid().steps(clip).double() - wanted) / wanted).abs().max() < 0.008


def test_large_rows_fit_until_float16_ends() -> None:
    grid = IntGrid()
    assert torch.isfinite(grid.steps(torch.tensor([1e5, 2e6]))).all()
    assert torch.isinf(grid.steps(torch.tensor([1e7]))).all()


@pytest.mark.parametrize("k", [12.85, 11.5])
def test_sd_clip_costs_what_the_formula_says(k: float) -> None:
    w = torch.randn(128, 1024, generator=torch.Generator().manual_seed(0))
    codes, _ = code(IntGrid(bits=6), SdClip(k=k), w)
    assert entropy_bits(codes.numpy()) / w.numel() == pytest.approx(2.0471 - math.log2(k / 31), abs=0.02)


def test_sd_clip_keeps_constant_rows_and_single_columns() -> None:
    grid = IntGrid()
    for w in (torch.full((2, 16), 0.7), torch.tensor([[0.7], [-0.2]])):
        codes, step = code(grid, SdClip(), w)
        assert grid.expand(codes, step) == pytest.approx(w.numpy(), rel=1e-3)


def test_search_clip_finds_the_least_error() -> None:
    grid, w = IntGrid(bits=4), weights(4, rows=16, columns=256)
    quantiles = (0.9, 0.97, 0.99, 1.0)

    def error(clip: Clip) -> torch.Tensor:
        return (w - grid.fake(w, grid.steps(clip.clip(w, grid))[:, None])).square().sum(1)

    each = torch.stack([error(QuantileClip(quantile=q)) for q in quantiles])
    rows, tensor = error(SearchClip(quantiles=quantiles)), error(SearchClip(quantiles=quantiles, per_row=False))
    assert torch.allclose(rows, each.amin(0)) and each.argmin(0).unique().numel() > 1
    assert torch.allclose(tensor.sum(), each.sum(1).min())
    assert rows.sum() < tensor.sum() < each.sum(1).max()


def test_quantile_clip_of_the_baseline_is_the_maximum_on_its_rows() -> None:
    w = weights(5, columns=512)
    assert torch.allclose(QuantileClip().clip(w, IntGrid()), MaxClip().clip(w, IntGrid()), rtol=2e-3)


IMPOSSIBLE = [
    part(IntGrid, bits=1),
    part(IntGrid, bits=9),
    part(IntGrid, floor=1e-10),
    part(IntGrid, floor=float("nan")),
    part(QuantileClip, quantile=0.0),
    part(SdClip, k=-1.0),
    part(SearchClip, quantiles=()),
]


@pytest.mark.parametrize("bad", IMPOSSIBLE, ids=repr)
def test_impossible_grids_and_clips_are_refused(bad: Spec[object]) -> None:
    with pytest.raises(RecipeError):
        bad()
