"""Factored token embeddings. `test_weight_sharing.py` tests that they can be trained, packed and loaded."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import part
from bitgolf.errors import RecipeError
from bitgolf.grids.lowbit import Float8Grid
from bitgolf.model.factored_embedding import FactoredEmbedding
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.linear import Embedding
from bitgolf.model.numerics import rms_norm
from bitgolf.model.parameters import parameter_roles
from bitgolf.recipes import get_recipe
from helpers.small_recipes import DIM, small_recipe
from helpers.small_recipes import VOCAB as SMALL_VOCAB
from helpers.toy import VOCAB, built, toy_model


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(2, VOCAB, (2, 20), generator=torch.Generator().manual_seed(0))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_a_factored_embedding_by_formula(ids: Tensor) -> None:
    model = built(toy_model().replace(embed=part(FactoredEmbedding, width=12))).double()
    e, embed = model.embed.weight, cast(FactoredEmbedding, model.embed)
    p, back = embed.expand.weight, embed.reduce.weight
    assert (tuple(e.shape), tuple(p.shape), tuple(back.shape)) == ((VOCAB, 12), (32, 12), (12, 32))
    assert torch.allclose(embed(ids), torch.einsum("btve,de->btd", e[ids][:, :, None], p), atol=1e-12)
    context = ForwardContext(ids)
    x = model.hidden(context)
    assert context.x0 is not None and torch.allclose(context.x0, rms_norm(e[ids] @ p.T), atol=1e-12)
    assert torch.allclose(embed.tied_logits(x), torch.einsum("btd,ed,ve->btv", x, back, e), atol=1e-12)


def test_of_the_streams_width_and_with_identities_it_is_the_tied_embedding(ids: Tensor) -> None:
    plain, factored = built(toy_model()), built(toy_model().replace(embed=part(FactoredEmbedding, width=32)))
    embed = cast(FactoredEmbedding, factored.embed)
    factored.load_state_dict(plain.state_dict(), strict=False)
    for square in (embed.expand, embed.reduce):
        square.weight.data.copy_(torch.eye(32))
    assert torch.allclose(plain(ids), factored(ids), atol=1e-6)
    embed.reduce.weight.data.mul_(0.9)
    assert (plain(ids) - factored(ids)).abs().max() > 1e-3


def test_in_pr640_lookups_are_rounded_and_the_head_is_not(ids: Tensor) -> None:
    """The head multiplies by the table itself, the projections are rounded in both directions."""
    spec = small_recipe(get_recipe("pr640"))().model
    embed = cast(FactoredEmbedding, built(spec, vocab=SMALL_VOCAB, noise=0.3).embed)
    grid, x = Float8Grid(), torch.randn(2, 5, DIM, generator=torch.Generator().manual_seed(1))
    table, expand, reduce = embed.weight, *(grid.fake_quantize(m.weight) for m in (embed.expand, embed.reduce))
    assert torch.allclose(embed(ids), grid.fake_quantize(table)[ids] @ expand.T, atol=1e-5)
    assert torch.allclose(embed.tied_logits(x), x @ reduce.T @ table.T, atol=1e-5)
    assert (embed.tied_logits(x) - x @ reduce.T @ grid.fake_quantize(table).T).abs().max() > 1e-3


def test_roles_and_size_of_a_factored_embedding() -> None:
    """E has the role of embeddings, both projections that of matrices; sizes as in Parameter Golf #640."""
    embed = FactoredEmbedding(BuildContext(vocab=8192, dim=768), width=254)
    assert parameter_roles(embed) == {"weight": "embedding", "expand.weight": "matrix", "reduce.weight": "matrix"}
    assert count(embed) == 8192 * 254 + 2 * 254 * 768
    assert embed.weight.std().item() == pytest.approx(0.005, rel=0.01) and embed.reduce.weight.any()
    assert count(Embedding(BuildContext(vocab=8192, dim=768))) - count(embed) > 3_800_000, "about 4 MB at 8 bits"
    with pytest.raises(RecipeError, match=r"embed\.width: must be at least 1, got 0"):
        FactoredEmbedding(BuildContext(vocab=10, dim=4), width=0)
