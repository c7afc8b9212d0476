"""Tests of clip rules that use calibration statistics (openai/parameter-golf, pull requests 414 and 1412)."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.grids.clip import Clip, HessianSdClip, QuantileClip, SdClip, SearchClip
from bitgolf.grids.integer import IntGrid
from bitgolf.model.qat import FakeQuant, QuantNoise, SoftRoundQuant
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.quantize.stats import MatrixStats
from helpers.examples import examples

GRID = IntGrid(bits=4)
QUANTILES = (0.8, 0.9, 0.97, 1.0)


def matrix(seed: int = 0, rows: int = 12, columns: int = 64) -> tuple[Tensor, Tensor]:
    """Weights with heavy tails, and inputs of very different size."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, columns, generator=generator) ** 3
    return w, torch.randn(columns, generator=generator).mul(2).exp()


def calibrated(h: Tensor, rows: int) -> MatrixStats:
    return MatrixStats(torch.diag(h), torch.ones(rows), 1)


@settings(max_examples=examples(40), deadline=None)
@given(k=st.floats(1, 20), seed=st.integers(0, 999), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_no_share_is_sd_clip_bit_for_bit(k: float, seed: int, scale: float) -> None:
    w, h = matrix(seed)
    assert torch.equal(HessianSdClip(k=k, strength=0.0).threshold(w, GRID, scale * h), SdClip(k=k).threshold(w, GRID))


@settings(max_examples=examples(40), deadline=None)
@given(share=st.floats(0, 1), seed=st.integers(0, 999))
def test_the_mean_over_rows_stays_and_loud_rows_get_more(share: float, seed: int) -> None:
    w, h = matrix(seed)
    ratio = HessianSdClip(k=9.0, strength=share).threshold(w, GRID, h) / (9.0 * w.std(1))
    loud = (w.abs() * (h / h.mean())).mean(1)
    assert ratio.mean().item() == pytest.approx(1, abs=1e-5)
    assert torch.allclose(ratio, 1 + share * (loud / loud.mean() - 1), atol=1e-5)
    assert torch.allclose(
        HessianSdClip(k=9.0, strength=share).threshold(w, GRID, 1e3 * h) / (9.0 * w.std(1)), ratio, atol=1e-5
    )


def test_without_weights_or_inputs_there_is_nothing_to_widen() -> None:
    w, h = matrix()
    assert torch.equal(HessianSdClip().threshold(w, GRID, 0 * h), SdClip().threshold(w, GRID))
    assert not HessianSdClip().threshold(0 * w, GRID, h).any()


def errors(w: Tensor, h: Tensor, clip: Clip) -> Tensor:
    return ((w - GRID.fake_quantize(w, GRID.steps(clip.threshold(w, GRID, h))[:, None])).square() * h).sum(1)


def test_a_weighted_search_finds_the_least_weighted_error() -> None:
    w, h = matrix()
    each = torch.stack([errors(w, h, QuantileClip(quantile=q)) for q in QUANTILES])
    rows = errors(w, h, SearchClip(quantiles=QUANTILES, weighted=True))
    tensor = errors(w, h, SearchClip(quantiles=QUANTILES, weighted=True, per_row=False))
    assert torch.allclose(rows, each.amin(0)) and each.argmin(0).unique().numel() > 1
    assert torch.allclose(tensor.sum(), each.sum(1).min())
    assert rows.sum() < errors(w, h, SearchClip(quantiles=QUANTILES)).sum()


def test_a_plain_search_does_not_mind_the_inputs() -> None:
    w, h = matrix()
    plain = SearchClip(quantiles=QUANTILES)
    assert torch.equal(plain.threshold(w, GRID, h), plain.threshold(w, GRID))
    weighted = SearchClip(quantiles=QUANTILES, weighted=True)
    assert torch.equal(weighted.threshold(w, GRID), plain.threshold(w, GRID))


CALIBRATED: list[Spec[Clip]] = [part(HessianSdClip), part(SearchClip, quantiles=QUANTILES, weighted=True)]


@pytest.mark.parametrize("clip", CALIBRATED, ids=repr)
def test_rows_are_clipped_by_what_calibration_knows(clip: Spec[Clip]) -> None:
    (w, h), codec = matrix(), IntRows(bits=4, clip=clip)
    assert codec.needs_calibration and not IntRows().needs_calibration
    code = codec.encode(w, calibrated(h, len(w)))
    assert torch.equal(codec.steps(code), GRID.steps(clip().threshold(w, GRID, h)))
    assert not torch.equal(codec.steps(code), codec.steps(codec.encode(w)))


@pytest.mark.parametrize("clip", CALIBRATED, ids=repr)
def test_training_knows_no_inputs(clip: Spec[Clip]) -> None:
    for view in (FakeQuant, QuantNoise, SoftRoundQuant):
        with pytest.raises(RecipeError, match="calibration") as caught:
            cast("Spec[object]", part(view, codec=part(IntRows, clip=clip)))(BuildContext(vocab=9))
        assert caught.value.hint and caught.value.where == f"{view.__name__}.codec.clip"
