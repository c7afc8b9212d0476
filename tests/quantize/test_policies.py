"""Published integer formats: int8 gates, 7-bit embeddings, steps in one byte, pruned weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, CorruptFileError, RecipeError
from bitgolf.grids.clip import MaxClip, SdClip
from bitgolf.grids.scales import Float16Scale, LogScale, ScaleFormat
from bitgolf.pack.byte_planes import entropy_bits
from bitgolf.quantize.codecs.codec import Float, IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.stats import MatrixStats
from helpers.examples import examples

SCALES: list[Spec[ScaleFormat]] = [part(Float16Scale), part(LogScale), part(LogScale, steps_per_doubling=4)]
SHAPES = [(), (1,), (7,), (4, 6), (3, 1), (2, 3, 5)]


@pytest.mark.parametrize("scales", SCALES, ids=repr)
@pytest.mark.parametrize("shape", [(8, 512), (8, 12), (1, 32), (16, 512)])
def test_gates_in_eight_bits(shape: tuple[int, int], scales: Spec[ScaleFormat]) -> None:
    """Pull request 1736 stores gates as int8 with one step per row, without clipping."""
    w = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    codec = IntRows(bits=8, clip=part(MaxClip), scales=scales)
    code = codec.encode(w)
    assert code["codes"].dtype == np.int8 and code["scales"].dtype == scales().dtype
    assert code["codes"].shape == shape and code["scales"].shape == shape[:1]
    assert ((codec.decode(code, shape) - w).abs() <= codec.steps(code)[:, None] / 2 * (1 + 1e-5)).all()
    assert np.abs(code["codes"]).max() >= 100


@pytest.mark.parametrize("k", [14.0, 15.0])
def test_an_embedding_in_seven_bits(k: float) -> None:
    """Pull request 1586: 15 standard deviations map to code 63. The rate follows the formula at any scale."""
    w = torch.randn(256, 512, generator=torch.Generator().manual_seed(2))
    codec = IntRows(bits=7, clip=part(SdClip, k=k))
    code = codec.encode(w)
    assert torch.allclose(codec.steps(code), k * w.std(1) / 63, rtol=2.0**-11)
    assert entropy_bits(code["codes"]) / w.numel() == pytest.approx(2.0471 - np.log2(k / 63), abs=0.02)
    assert np.array_equal(codec.encode(0.125 * w)["codes"], code["codes"])


def test_an_embedding_in_float16_is_float16() -> None:
    w = torch.randn(32, 16, generator=torch.Generator().manual_seed(2))
    code = Float(dtype="float16").encode(w)
    assert code["values"].tobytes() == w.half().numpy().tobytes()


def test_steps_in_a_byte_cost_half_the_bytes_and_nearly_no_precision() -> None:
    w = torch.randn(64, 512, generator=torch.Generator().manual_seed(3)) / torch.arange(5, 69)[:, None]
    half, log = IntRows(), IntRows(scales=part(LogScale))
    codes = half.encode(w), log.encode(w)
    assert codes[1]["scales"].nbytes * 2 == codes[0]["scales"].nbytes
    ratio = log.steps(codes[1]) / half.steps(codes[0])
    assert (ratio > 0.999).all() and (ratio < 2 ** (1 / 16) * 1.001).all() and ratio.max() > 1.03
    with pytest.raises(BitgolfError, match=r"beyond the largest that can be stored, 0\.239"):
        log.encode(100 * w)


@pytest.mark.parametrize("bad", [-32, 33, 2])
def test_a_code_off_its_grid_is_damage(bad: int) -> None:
    codec, w = IntRows(bits=6, multiple=3), torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    code = codec.encode(w)
    code["codes"][1, 2] = bad
    with pytest.raises(CorruptFileError, match="code"):
        codec.decode(code, (4, 6))


# ---- pruned weights --------------------------------------------------------------------------------------------------


@settings(max_examples=examples(40), deadline=None)
@given(prune=st.floats(0, 0.99), shape=st.sampled_from(SHAPES), seed=st.integers(0, 999), constant=st.booleans())
def test_the_smallest_weights_become_zero(prune: float, shape: tuple[int, ...], seed: int, constant: bool) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    w = torch.ones(shape) if constant else w
    codec = IntRows(bits=8, clip=part(MaxClip), prune=prune)
    back = codec.decode(codec.encode(w), shape)
    dropped = int(np.ceil(prune * w.numel()))
    assert (back == 0).sum() >= dropped
    if constant:
        assert (back == 0).sum() == dropped
    kept = w.flatten().abs().sort(descending=True).values[: w.numel() - dropped]
    if len(kept) and len(shape) == 2:
        assert (back.flatten()[w.flatten().abs() < kept[-1]] == 0).all()


def test_more_zeros_are_fewer_bytes() -> None:
    w = torch.randn(128, 256, generator=torch.Generator().manual_seed(0))
    bits = [entropy_bits(IntRows(prune=p).encode(w)["codes"]) for p in (0.0, 0.1, 0.2, 0.4, 0.8)]
    assert bits[0] == bits[1] > bits[2] > bits[3] > bits[4], "a tenth would have been rounded to zero anyway"


def test_pruned_weights_stay_zero_and_the_solver_makes_up_for_them() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 32, generator=generator) @ torch.randn(32, 32, generator=generator)
    stats, w = MatrixStats(x.T @ x / 500, torch.ones(16), 500), torch.randn(16, 32, generator=generator)
    plain, solved = IntRows(bits=6, prune=0.3), IntRows(bits=6, prune=0.3, solver=part(GPTQ))
    decoded = [codec.decode(codec.encode(w, stats), (16, 32)) for codec in (plain, solved)]
    smallest = w.abs().flatten().argsort()[: int(np.ceil(0.3 * w.numel()))]
    assert not any(back.flatten()[smallest].any() for back in decoded)
    costs = [stats.cost(back - w).sum() for back in decoded]
    assert costs[1] < 0.9 * costs[0]
    before = torch.where(torch.isin(torch.arange(w.numel()), smallest).view(16, 32), 0.0, w)
    unaware = IntRows(bits=6, solver=part(GPTQ))
    assert costs[1] < stats.cost(unaware.decode(unaware.encode(before, stats), (16, 32)) - w).sum()


@pytest.mark.parametrize("prune", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none_is_refused(prune: float) -> None:
    with pytest.raises(RecipeError, match="pruned"):
        IntRows(prune=prune)
