"""The causal convolution on the final hidden states, against PyTorch's `Conv1d` and the published formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import part
from bitgolf.errors import RecipeError
from bitgolf.model.convolution import CausalConvolution
from bitgolf.model.decoding.incremental import IncrementalDecoder
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.parameters import parameter_roles
from helpers.toy import VOCAB, built, toy_model

AT = BuildContext(vocab=VOCAB, dim=16)


def convolution(kernel: int, *, mask_starts: bool = True) -> CausalConvolution:
    torch.manual_seed(0)
    layer = part(CausalConvolution, kernel=kernel, mask_starts=mask_starts)(AT).double()
    with torch.no_grad():
        layer.scale.fill_(0.7)
    return layer


def x(length: int = 9) -> Tensor:
    return torch.randn(2, length, 16, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("kernel", [2, 3, 5, 8])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_it_is_the_published_formula(kernel: int, length: int) -> None:
    layer = convolution(kernel, mask_starts=False)
    weight = layer.project.weight.view(16, 16, kernel)
    h = F.conv1d(F.pad(x(length).transpose(1, 2), (kernel - 1, 0)), weight).transpose(1, 2)
    expected = x(length) + torch.tanh(torch.tensor(0.7).double()) * F.rms_norm(h, (16,))
    assert torch.allclose(layer(x(length), ForwardContext(torch.full((2, length), 9))), expected, atol=1e-7)


def test_sizes_roles_and_first_values() -> None:
    layer = part(CausalConvolution)(AT._replace(dim=64))
    assert parameter_roles(layer) == {"scale": "scale", "project.weight": "matrix"}
    assert sum(p.numel() for p in layer.parameters()) == 3 * 64 * 64 + 1, "that of a Conv1d of width 3, and the scalar"
    assert layer.project.weight.abs().max() <= (3 * 64) ** -0.5 and not layer.scale


def test_it_reads_as_far_as_its_kernel_and_not_ahead() -> None:
    layer, ids, other = convolution(3), torch.full((2, 9), 9), x()
    other[:, 4] += 1.0
    moved = (layer(x(), ForwardContext(ids)) - layer(other, ForwardContext(ids))).abs().amax((0, 2))
    assert (moved[[4, 5, 6]] > 1e-3).all() and (moved[[0, 1, 2, 3, 7, 8]] == 0).all()


def test_with_masked_starts_a_document_sees_zeros_before_it() -> None:
    ids = torch.full((2, 9), 9)
    ids[:, 4] = 1
    masked, crossing = (convolution(4, mask_starts=m)(x(), ForwardContext(ids)) for m in (True, False))
    alone = convolution(4)(x()[:, 4:], ForwardContext(ids[:, 4:]))
    assert torch.equal(masked[:, 4:], alone) and torch.equal(masked[:, :4], crossing[:, :4])
    assert ((masked - crossing).abs().amax((0, 2))[4:7] > 1e-3).all() and torch.equal(masked[:, 7:], crossing[:, 7:])


@torch.no_grad()
def test_behind_the_final_norm_it_changes_the_logits_and_decodes_token_by_token() -> None:
    node = part(CausalConvolution, kernel=4)
    model, ids = built(toy_model().replace(post_norm=(node,))), torch.randint(2, VOCAB, (2, 20))
    ids[:, 0], ids[1, 7] = 1, 1
    whole, context = model(ids), model.forward_context(ids)
    plain = built(toy_model())
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "post_norm" not in k})
    hidden = model.post_norm[0](plain.hidden(context), context)
    assert torch.allclose(model.logits(hidden), whole) and (whole - plain(ids)).abs().max() > 1e-2
    reader = IncrementalDecoder(model, 2, window=32, stride=16)
    for t in range(1, 20):
        assert (reader.logits - whole[:, t - 1]).abs().max() < 1e-4, t
        reader.step(ids[:, t])


@pytest.mark.parametrize("kernel", [1, 9])
def test_other_kernels_are_refused(kernel: int) -> None:
    with pytest.raises(RecipeError, match=f"from 2 to 8, got {kernel}"):
        part(CausalConvolution, kernel=kernel)
    with pytest.raises(RecipeError, match=f"from 2 to 8 positions, got {kernel}"):
        CausalConvolution(AT, kernel=kernel)
