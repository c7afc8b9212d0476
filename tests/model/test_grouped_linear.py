"""Grouped linear layers: block-diagonal matrices stored without their zeros."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import replace
from bitgolf.config.spec import part
from bitgolf.errors import RecipeError
from bitgolf.grids.lowbit import TernaryGrid
from bitgolf.model.grouped_linear import GroupedLinear
from bitgolf.model.mlp import MLP
from bitgolf.model.qat_lowbit import FakeTernary
from bitgolf.model.weight_sharing import LowRankAdapter
from bitgolf.quantize.calibration.observe import matrix_stats, observe
from helpers.toy import VOCAB, built, toy_model

AT = BuildContext(vocab=VOCAB).for_matrix(12, 20, name="up")


def block_diagonal(w: Tensor, groups: int) -> Tensor:
    return torch.block_diag(*w.chunk(groups))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_it_is_a_block_diagonal_matrix(groups: int) -> None:
    layer, x = part(GroupedLinear, groups=groups)(AT).double(), torch.randn(2, 5, 12).double()
    assert layer.weight.shape == (20, 12 // groups)
    assert torch.allclose(layer(x), x @ block_diagonal(layer.weight, groups).T, atol=1e-12)
    assert layer.weight.abs().max() <= (12 // groups) ** -0.5
    assert not part(GroupedLinear, groups=groups)(AT._replace(zero_init=True)).weight.any()


def test_its_weights_are_rounded_along_the_stored_rows_and_its_adapters_read_all_inputs() -> None:
    node = part(
        GroupedLinear,
        groups=2,
        weight_transforms=(part(FakeTernary, group_size=8),),
        adapters=(part(LowRankAdapter, rank=3),),
    )
    layer, x = node(AT).double(), torch.randn(4, 12).double()
    adapter = cast(LowRankAdapter, layer.adapters[0])
    torch.nn.init.normal_(adapter.b)
    rounded = TernaryGrid(8).fake_quantize(layer.weight).double()
    expected = x @ block_diagonal(rounded, 2).T + x @ adapter.a.T @ adapter.b.T
    assert torch.allclose(layer(x), expected, atol=1e-6)


@pytest.mark.parametrize("groups", [3, 5, 40])
def test_groups_must_divide_both_widths(groups: int) -> None:
    with pytest.raises(RecipeError, match=f"groups={groups} must divide the widths 12 and 20") as refused:
        part(GroupedLinear, groups=groups)(AT)
    assert "up" in refused.value.where


def test_calibration_takes_the_mean_over_the_groups() -> None:
    """One Hessian (C, C) for rows of C inputs, whichever inputs they read."""
    grouped = toy_model().edit(MLP, replace(linear=part(GroupedLinear, groups=4)))
    model, ids, seen = built(grouped), torch.randint(2, VOCAB, (3, 16)), list[Tensor]()
    up = model.get_submodule("blocks.0.mlp.up")
    up.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().double()))
    stats = matrix_stats(observe(model, [ids]))["blocks.0.mlp.up.weight"]
    parts = seen[0].flatten(0, 1).unflatten(-1, (4, 8)).unbind(1)
    expected = torch.stack([part.T @ part / len(part) for part in parts]).mean(0)
    assert torch.allclose(stats.hessian.double(), expected, rtol=1e-4, atol=1e-5) and stats.output_fisher.shape == (48,)
