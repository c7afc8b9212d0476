"""Tests of integer grids and clip rules: error bounds, symmetry, scale equivariance, minimum steps."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.grids.clip import Clip, HessianSdClip, MaxClip, QuantileClip, SdClip, SearchClip
from bitgolf.grids.integer import IntGrid
from bitgolf.grids.scales import MIN_STEP, Float16Scale, LogScale, ScaleFormat
from bitgolf.pack.byte_planes import entropy_bits
from helpers.examples import examples

CLIPS: list[Clip] = [
    MaxClip(),
    QuantileClip(quantile=0.9),
    SdClip(k=2.5),
    SearchClip(quantiles=(0.8, 0.95, 1.0)),
    SearchClip(quantiles=(0.8, 0.95, 1.0), per_row=False),
]
NAMES = ["max", "quantile", "sd", "search rows", "search tensor"]


def weights(seed: int, rows: int = 4, columns: int = 64, scale: float = 1.0) -> torch.Tensor:
    """Rows of different standard deviation with a few outliers."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, columns, generator=generator) * torch.rand(rows, 1, generator=generator) * scale
    return torch.where(torch.rand(w.shape, generator=generator) < 0.03, 8 * w, w)


def code(grid: IntGrid, clip: Clip, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    step = grid.steps(clip.threshold(w, grid))[:, None]
    return grid.quantize(w, step), step


@pytest.mark.parametrize("clip", CLIPS, ids=NAMES)
@settings(max_examples=examples(60), deadline=None)
@given(
    bits=st.integers(2, 8),
    full=st.booleans(),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([1e-7, 1e-3, 1.0, 1e3]),
)
def test_error_is_half_a_step_and_what_was_clipped(clip: Clip, bits: int, full: bool, seed: int, scale: float) -> None:
    grid, w = IntGrid(bits=bits, full_range=full), weights(seed, scale=scale)
    codes, step = code(grid, clip, w)
    back, s = grid.dequantize(codes, step).double(), step.double()
    excess = (w.double() - w.double().clamp(grid.qmin * s, grid.qmax * s)).abs()
    assert ((w - back).abs() <= s / 2 * (1 + 1e-6) + excess + 1e-6 * w.abs()).all()
    assert grid.qmin <= int(codes.min()) and int(codes.max()) <= grid.qmax
    assert step.dtype == torch.float32 and torch.equal(step.half().float(), step) and codes.dtype == torch.int8


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
    w, grid = weights(1), IntGrid(bits=6, min_step=1 / 31)
    assert not torch.equal(code(grid, clip, w / 8)[0], code(grid, clip, w)[0])


def test_which_regime_the_floor_puts_a_row_in() -> None:
    row = torch.linspace(-0.3, 0.3, 101)[None]
    assert IntGrid(bits=6).steps(MaxClip().threshold(row, IntGrid())).item() == torch.tensor(0.3 / 31).half().item()
    legacy = IntGrid(bits=6, min_step=1 / 31)
    assert legacy.steps(MaxClip().threshold(row, legacy)).item() == torch.tensor(1 / 31).half().item()


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


@settings(max_examples=examples(60), deadline=None)
@given(
    multiple=st.integers(1, 20), full=st.booleans(), bits=st.integers(6, 8), seed=st.integers(0, 999), log=st.booleans()
)
def test_only_multiples_of_a_code(multiple: int, full: bool, bits: int, seed: int, log: bool) -> None:
    scales: Spec[ScaleFormat] = part(LogScale, steps_per_doubling=8) if log else part(Float16Scale)
    grid, w = IntGrid(bits=bits, multiple=multiple, full_range=full, scales=scales), weights(seed)
    codes, step = code(grid, MaxClip(), w)
    assert (codes.int() % multiple == 0).all() and grid.contains(codes)
    assert not grid.contains(codes + torch.tensor(1, dtype=torch.int8)) or multiple == 1
    assert torch.equal(step, code(IntGrid(bits=bits, scales=scales), MaxClip(), w)[1]), "the fine grid's steps"
    near = torch.arange(-128, 128) * step[:, :, None] - w[:, :, None]
    allowed = (torch.arange(-128, 128) % multiple == 0) & (torch.arange(-128, 128).abs() <= grid.full_qmax)
    if not full:
        assert torch.allclose((grid.dequantize(codes, step) - w).abs(), near[..., allowed].abs().amin(2), atol=1e-6)


def test_step_rounded_int8() -> None:
    """Codes 126 and 127 do not become 128 (openai/parameter-golf, pull request 39)."""
    grid, w = IntGrid(bits=8, multiple=4), torch.randn(8, 500, generator=torch.Generator().manual_seed(0))
    codes, step = code(grid, MaxClip(), w)
    assert codes.max() == 124 and codes.min() == -124 and (codes % 4 == 0).all()
    error, inside = (grid.dequantize(codes, step) - w).abs(), w.abs() <= 126 * step
    assert (error <= 2.5 * step)[inside].all() and (error > step).float().mean() > 0.4 and not inside.all()
    assert IntGrid(bits=8, multiple=4, full_range=True).qmin == -128


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e-7])
def test_rows_too_small_for_float16_steps_lose_no_more_than_half_the_floor(scale: float) -> None:
    grid, w = IntGrid(), weights(3, scale=scale)
    codes, step = code(grid, MaxClip(), w)
    assert (step >= MIN_STEP).all()
    assert (grid.dequantize(codes, step) - w).abs().max() <= MIN_STEP / 2


def test_every_step_from_the_floor_up_keeps_its_precision() -> None:
    clip = torch.logspace(-9, 1, 5000)
    wanted = (clip / 31).clamp_min(MIN_STEP)
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
        assert grid.dequantize(codes, step) == pytest.approx(w.numpy(), rel=1e-3)


def test_search_clip_finds_the_least_error() -> None:
    grid, w = IntGrid(bits=4), weights(4, rows=16, columns=256)
    quantiles = (0.9, 0.97, 0.99, 1.0)

    def error(clip: Clip) -> torch.Tensor:
        return (w - grid.fake_quantize(w, grid.steps(clip.threshold(w, grid))[:, None])).square().sum(1)

    each = torch.stack([error(QuantileClip(quantile=q)) for q in quantiles])
    rows, tensor = error(SearchClip(quantiles=quantiles)), error(SearchClip(quantiles=quantiles, per_row=False))
    assert torch.allclose(rows, each.amin(0)) and each.argmin(0).unique().numel() > 1
    assert torch.allclose(tensor.sum(), each.sum(1).min())
    assert rows.sum() < tensor.sum() < each.sum(1).max()


def test_quantile_clip_of_the_baseline_is_the_maximum_on_its_rows() -> None:
    w = weights(5, columns=512)
    assert torch.allclose(QuantileClip().threshold(w, IntGrid()), MaxClip().threshold(w, IntGrid()), rtol=2e-3)


IMPOSSIBLE = [
    partial(part, IntGrid, bits=1),
    partial(part, IntGrid, bits=9),
    partial(part, IntGrid, min_step=1e-10),
    partial(part, IntGrid, multiple=0),
    partial(part, IntGrid, bits=3, multiple=4),
    partial(part, HessianSdClip, strength=1.5),
    partial(part, HessianSdClip, k=0.0),
    partial(part, IntGrid, min_step=float("nan")),
    partial(part, QuantileClip, quantile=0.0),
    partial(part, SdClip, k=-1.0),
    partial(part, SearchClip, quantiles=()),
]


@pytest.mark.parametrize("bad", IMPOSSIBLE, ids=lambda bad: f"{bad.args[0].__name__} {bad.keywords}")
def test_impossible_grids_and_clips_are_refused(bad: partial[Spec[object]]) -> None:
    with pytest.raises(RecipeError):
        bad()()
