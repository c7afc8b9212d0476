"""Value residuals (the values of layer 0) and value embeddings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append
from bitgolf.config.rules import Rule, assign_to_rules
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.values import (
    AddValueEmbedding,
    FixedValueResidual,
    ValueEmbedding,
    ValueResidual,
    ValueResidualBase,
)
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.inits import ZeroInit
from bitgolf.model.lm import LM
from bitgolf.model.parameters import parameter_roles
from bitgolf.model.part import only
from helpers.toy import VOCAB, built, toy_model

AT = BuildContext(vocab=VOCAB, dim=32, layers=3, layer=0, heads=4, kv_heads=2)
LATER = AT._replace(layer=2)
X = torch.zeros(1, 3, 32)


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(2, VOCAB, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def context() -> ForwardContext:
    return ForwardContext(torch.tensor([[1, 5, 6]]))


def values(seed: int, *, grad: bool = False) -> Tensor:
    return torch.randn(1, 3, 2, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_(grad)


# ---- the first layer's values ---------------------------------------------------------------------------------------


def test_the_fixed_residual_is_the_mean_and_stops_the_gradient(context: ForwardContext) -> None:
    v0, v = values(0, grad=True), values(1, grad=True)
    first, later = FixedValueResidual(AT), FixedValueResidual(LATER)
    assert first(v0, X, context) is v0
    mixed = later(v, X, context)
    assert torch.allclose(mixed, (v + v0) / 2)
    mixed.sum().backward()
    assert v0.grad is None and v.grad is not None and torch.equal(v.grad, torch.full_like(v, 0.5))


def test_the_learned_residual_adds_and_trains_both(context: ForwardContext) -> None:
    v0, v = values(0, grad=True), values(1, grad=True)
    first, later = ValueResidual(AT), ValueResidual(LATER)
    assert first(v0, X, context) is v0 and not list(first.parameters())
    assert torch.allclose(later(v, X, context), v + 0.5 * v0)
    later.alpha.data.fill_(1.3)
    mixed = later(v, X, context)
    assert torch.allclose(mixed, v + v0 / (1 + torch.tensor(-1.3).exp()))
    mixed.sum().backward()
    assert v0.grad is not None and v0.grad.abs().min() > 0.5
    assert later.alpha.grad is not None and later.alpha.grad.abs() > 0


@pytest.mark.parametrize("cls", [FixedValueResidual, ValueResidual])
def test_values_are_those_of_the_first_visit(cls: type[ValueResidualBase], context: ForwardContext) -> None:
    """A second visit of layer 0 leaves its values unchanged and does not replace the stored ones."""
    first, later = part(cls)(AT), part(cls)(LATER)
    v0, again, v = values(0), values(1), values(2)
    first(v0, X, context)
    before = later(v, X, context)
    assert torch.equal(first(again, X, context), again)
    assert torch.equal(later(v, X, context), before)


def test_a_closed_residual_is_the_baseline(ids: Tensor) -> None:
    plain = built(toy_model())
    more = built(toy_model().edit(Attention, append(value=part(ValueResidual))))
    more.load_state_dict(plain.state_dict(), strict=False)
    assert (more(ids) - plain(ids)).abs().max() > 1e-2
    alphas = [p for name, p in more.named_parameters() if name.endswith("alpha")]
    assert [p.shape for p in alphas] == [(1,), (1,)], "layer 0 has none"
    for alpha in alphas:
        alpha.data.fill_(-1e3)
    assert torch.equal(more(ids), plain(ids))


def test_a_residual_without_its_source_says_so(ids: Tensor) -> None:
    model = toy_model().edit(Attention, append(value=only("1-2", part(ValueResidual))))(BuildContext(vocab=VOCAB))
    with pytest.raises(RecipeError, match=r"no part provides the values of layer 0") as error:
        model(ids)
    assert "ValueResidual on layer 0" in error.value.hint


# ---- the value table ------------------------------------------------------------------------------------------------


def with_table(layers: str = "*", **changes: object) -> Spec[LM]:
    table = part(ValueEmbedding, **{"width": 8, "value_dim": 16, **changes})  # type: ignore[arg-type]
    model = toy_model().edit(LM, append(post_embed=table))
    return model.edit(Attention, append(value=only(layers, part(AddValueEmbedding))))


def test_value_embeddings_follow_their_formula(context: ForwardContext) -> None:
    table, add = ValueEmbedding(AT, width=8, value_dim=16, scale=0.3).double(), AddValueEmbedding(LATER).double()
    x, v = torch.randn(1, 3, 32).double(), values(0).double()
    assert table(x, context) is x, "the stream is unchanged"
    add.weight.data.fill_(1.7)
    out = add(v, x, context)
    for t, token in enumerate((1, 5, 6)):
        e = 1.7 * table.scale.item() * (table.project.weight @ table.table.weight[token])
        assert torch.allclose(out[0, t].flatten(), v[0, t].flatten() + e, atol=1e-12)
    assert table.scale.item() == pytest.approx(0.3) and AddValueEmbedding(AT).weight.tolist() == [1.0]


def test_value_embeddings_depend_on_the_token_alone(ids: Tensor) -> None:
    table, add = ValueEmbedding(AT, width=8, value_dim=16, std=1.0), AddValueEmbedding(AT)
    zero = torch.zeros(2, 12, 2, 8)

    def embeddings(ids: Tensor) -> Tensor:
        context = ForwardContext(ids)
        table(X, context)
        return add(zero, X, context)

    before, shuffled = embeddings(ids), torch.randperm(12, generator=torch.Generator().manual_seed(1))
    assert torch.equal(embeddings(ids[:, shuffled]), before[:, shuffled]) and before.abs().max() > 0.01


def test_the_published_table() -> None:
    """1,024 x 128 + 256 x 128 + 1 parameters. Not zero initially, since P is orthogonal."""
    torch.manual_seed(0)
    table = ValueEmbedding(BuildContext(vocab=1024, dim=512, layers=11))
    assert sum(p.numel() for p in table.parameters()) == 1024 * 128 + 256 * 128 + 1
    assert table.table.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert torch.allclose(table.project.weight.T @ table.project.weight, torch.eye(128), atol=1e-5)
    assert table.scale.item() == pytest.approx(0.1)
    assert ValueEmbedding(AT, init=part(ZeroInit)).project.weight.abs().max() == 0


def test_the_table_is_read_once_and_only_where_it_is_added(ids: Tensor) -> None:
    model = built(with_table("1-2"))
    calls: list[int] = []
    model.post_embed[1].register_forward_hook(lambda *_: calls.append(1))
    before = model(ids)
    assert len(calls) == 1
    assert [len(b.mixer.value) for b in model.blocks] == [0, 1, 1]  # type: ignore[union-attr]
    with torch.no_grad():
        model.post_embed[1].table.weight.mul_(2)  # type: ignore[union-attr,operator]
    assert (model(ids) - before).abs().max() > 1e-3


def test_every_parameter_of_the_table_learns_and_has_the_published_group(ids: Tensor) -> None:
    model = built(with_table())
    model(ids).square().mean().backward()
    own = {
        path: role for path, role in parameter_roles(model).items() if "post_embed.1" in path or "mixer.value" in path
    }
    assert own == {
        "post_embed.1.project.weight": "matrix",
        "post_embed.1.scale": "scale",
        "post_embed.1.table.weight": "embedding",
        **{f"blocks.{i}.mixer.value.0.weight": "scale" for i in range(3)},
    }
    for path in own:
        grad = model.get_parameter(path).grad
        assert grad is not None and grad.abs().max() > 0, path
    rules = [part(Rule, where=role, use=part(ZeroInit)) for role in ("matrix", "embedding", "scale")]
    matrix, token, scalar = assign_to_rules(rules, parameter_roles(model))
    assert (
        "post_embed.1.project.weight" in matrix
        and "post_embed.1.table.weight" in token
        and "post_embed.1.scale" in scalar
    )


def test_a_table_that_is_missing_or_does_not_fit_says_so(ids: Tensor) -> None:
    alone = toy_model().edit(Attention, append(value=part(AddValueEmbedding)))(BuildContext(vocab=VOCAB))
    with pytest.raises(RecipeError, match=r"no part provides the value embeddings"):
        alone(ids)
    with pytest.raises(RecipeError, match=r"value_dim is 24, but attention has 2 key/value heads of width 8") as error:
        with_table(value_dim=24)(BuildContext(vocab=VOCAB))(ids)
    assert error.value.hint == "set it to 16"
    with pytest.raises(RecipeError, match=r"width and value_dim must be at least 1, got"):
        ValueEmbedding(AT, width=0)
