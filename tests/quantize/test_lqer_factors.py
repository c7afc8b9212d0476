"""Storage of low-rank factors: the published format, and equal groups in encoder and decoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bitgolf.config.spec import part
from bitgolf.quantize.codecs.lqer_factors import AsymmetricFactors, PerRowFactors


def weight(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_asymmetric_factors_are_the_published_ones() -> None:
    """Against the definition: 2 bits with one scale for A, 4 bits with one scale per 64 entries of flattened B."""
    left, right = weight(40, 4), weight(4, 48, seed=1)
    code = part(AsymmetricFactors)().quantize(left, right)
    scale = np.float16(float(left.abs().max()) / 1.5)
    assert code["left_scales"].tolist() == [[scale]]
    assert code["left"].tolist() == [[min(1, max(-2, round(float(x) / float(scale)))) for x in row] for row in left]
    groups = right.reshape(3, 64)
    scales = (groups.abs().amax(1) / 7.5).half()
    assert code["right_scales"].reshape(-1).tolist() == scales.tolist()
    codes = (groups / scales.float()[:, None]).round().clamp(-8, 7).reshape(4, 48)
    assert torch.equal(torch.from_numpy(code["right"]).T.float(), codes)
    a, b = part(AsymmetricFactors)().dequantize(code)
    assert torch.equal(a, torch.from_numpy(code["left"]).float() * float(scale))
    assert torch.equal(b, (codes.reshape(3, 64) * scales.float()[:, None]).reshape(4, 48))


def test_what_is_too_small_for_a_scale_is_zero() -> None:
    """If a scale rounds to zero, the codes are zero as well, so that they cost no bytes."""
    left = torch.cat([weight(3, 2), torch.zeros(1, 2), 1e-12 * weight(1, 2, seed=1)])
    code = part(PerRowFactors)().quantize(left, weight(2, 9, seed=2))
    assert code["left"][:3].any(1).all() and not code["left"][3:].any() and not code["left_scales"][3:].any()


@pytest.mark.parametrize("group", [2, 6, 16, 64, 192])
@pytest.mark.parametrize("columns", [48, 31])
def test_reader_and_writer_have_one_group(group: int, columns: int) -> None:
    """If the group size does not divide B, both use rows; B decodes to within half a step of its group."""
    left, right = weight(20, 4), weight(4, columns, seed=1) * torch.tensor([[0.3], [1.0], [30.0], [1e3]])
    factors = part(AsymmetricFactors, group_size=group)()
    code = factors.quantize(left, right)
    assert {name: (a.dtype, a.shape) for name, a in code.items()} == factors.arrays(20, columns, 4)
    divides = 4 * columns % group == 0
    blocks = right.reshape(-1, group) if divides else right
    steps = blocks.abs().amax(1, keepdim=True) / (7.5 if divides else 7)
    apart = (factors.dequantize(code)[1].reshape(blocks.shape) - blocks).abs()
    assert (apart <= 0.51 * steps).all() and code["right_scales"].size == len(blocks)
