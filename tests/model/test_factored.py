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
from bitgolf.model.head import CorrectedTiedHead, TiedHead, UntiedHead
from bitgolf.model.linear import Embedding
from bitgolf.model.ngram_embedding import PreviousTokenEmbedding
from bitgolf.model.numerics import rms_norm
from bitgolf.model.parameters import parameter_roles
from bitgolf.model.qat_lowbit import FakeFloat8
from bitgolf.quantize.calibration.observe import matrix_stats, observe
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


def test_a_table_by_the_previous_token_before_the_expansion(ids: Tensor) -> None:
    """As published: (E[id] + U[previous]) P^T with id 0 before the first token, here without masked starts."""
    node = part(FactoredEmbedding, width=12, pre_expand=(part(PreviousTokenEmbedding, mask_starts=False),))
    model = built(toy_model().replace(embed=node)).double()
    embed = cast(FactoredEmbedding, model.embed)
    u = cast(PreviousTokenEmbedding, embed.pre_expand[0]).table.weight
    previous = torch.cat([torch.zeros(2, 1).long(), ids[:, :-1]], 1)
    assert u.shape == (VOCAB, 12)
    expected = (embed.weight[ids] + u[previous]) @ embed.expand.weight.T
    assert torch.allclose(embed(ids), expected, atol=1e-12)
    context = ForwardContext(ids)
    model.hidden(context)
    assert context.x0 is not None and torch.allclose(context.x0, rms_norm(expected), atol=1e-12)


def test_calibration_sees_the_lookups_of_both_tables(ids: Tensor) -> None:
    """The gradient of a sum is that of each table's rows; E is the head, too."""
    node = part(FactoredEmbedding, width=12, pre_expand=(part(PreviousTokenEmbedding),))
    stats = matrix_stats(observe(built(toy_model().replace(embed=node, head=part(UntiedHead))), [ids]))
    table, e = stats["embed.pre_expand.0.table.weight"], stats["embed.weight"]
    counts = torch.bincount(torch.cat([torch.zeros(2, 1).long(), ids[:, :-1]], 1).flatten(), minlength=VOCAB)
    assert torch.allclose(table.output_fisher * ids.numel(), counts.float())
    assert table.hessian.abs().max() > 0 and torch.allclose(table.hessian, e.hessian)


@pytest.mark.parametrize("transform_head", [True, False])
def test_a_correction_of_the_tied_table_counts_in_the_head_only(ids: Tensor, transform_head: bool) -> None:
    rounded = (part(FakeFloat8),)
    node = part(FactoredEmbedding, width=12, weight_transforms=rounded, transform_head=transform_head)
    spec = toy_model().replace(embed=node).edit("head", lambda _: part(CorrectedTiedHead))
    model = built(spec).double()
    embed, c = cast(FactoredEmbedding, model.embed), cast(CorrectedTiedHead, model.head).correction
    table = Float8Grid().fake_quantize(embed.weight).double() if transform_head else embed.weight
    x = torch.randn(2, 5, 32).double()
    assert torch.allclose(model.logits(x), x @ embed.reduce.weight.T @ (table + c).T, atol=1e-10)
    assert parameter_roles(model)["head.correction"] == "head" and c.shape == (VOCAB, 12)
    rows = embed(ids)
    c.data.zero_()
    assert torch.equal(embed(ids), rows), "lookups do not see the correction"
    plain = built(spec.edit("head", lambda _: part(TiedHead))).double()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k != "head.correction"})
    assert torch.equal(plain(ids), model(ids)), "at zero it is the tied head"


def test_the_correction_has_the_shape_of_a_plain_table_too() -> None:
    model = toy_model().edit("head", lambda _: part(CorrectedTiedHead))(BuildContext(vocab=VOCAB))
    assert cast(CorrectedTiedHead, model.head).correction.shape == model.embed.weight.shape
