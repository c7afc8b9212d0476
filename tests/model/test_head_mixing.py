"""The mix of heads' projections, and taking it out of a trained model."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor

from bitgolf.config.edits import but
from bitgolf.config.spec import Place, Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.head_mixing import HeadMix, fold
from bitgolf.model.block import Block
from bitgolf.model.interfaces import View
from bitgolf.model.linear import Linear
from bitgolf.model.lm import LM
from bitgolf.model.parameters import roles
from bitgolf.model.part import only
from helpers.toy import VOCAB, built, toy_model

AT = Place(vocab=VOCAB, dim=32, layers=3, layer=0, heads=4, kv_heads=2)
MIX = only("*", part(HeadMix), on="q,k")


class Halved(View):
    """Another view: it does not commute with a mix in its rounding, only in exact arithmetic."""

    def __init__(self, at: Place, /) -> None:
        super().__init__()

    def forward(self, w: Tensor) -> Tensor:
        return (8 * w).round() / 8


def mixed(*views: Spec[View], on: str = "block.mixer.linear") -> Spec[LM]:
    return toy_model().edit(on, but(view=views))


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(2, VOCAB, (2, 12), generator=torch.Generator().manual_seed(0))


def attention(model: LM, layer: int) -> Attention:
    return cast(Attention, cast(Block, model.blocks[layer]).mixer)


@pytest.mark.parametrize(("name", "blocks"), [("q", 4), ("k", 2), ("v", 2)])
def test_a_mix_is_a_kronecker_product_with_the_identity(name: str, blocks: int) -> None:
    mix, w = HeadMix(AT.matrix(32, 8 * blocks, name=name)).double(), torch.randn(8 * blocks, 32).double()
    assert torch.equal(mix.weight, torch.eye(blocks).double()) and torch.equal(mix(w), w)
    torch.nn.init.normal_(mix.weight)
    assert torch.allclose(mix(w), torch.kron(mix.weight, torch.eye(8).double()) @ w)


def test_it_stands_on_queries_and_keys_with_its_own_role(ids: Tensor) -> None:
    model = mixed(MIX)(Place(vocab=VOCAB))
    found = {path: role for path, role in roles(model).items() if "view" in path}
    assert found == {f"blocks.{i}.mixer.{m}.view.0.weight": "scale" for i in range(3) for m in "qk"}
    assert sum(model.get_parameter(path).numel() for path in found) == 3 * (16 + 4)


def test_the_identity_is_the_baseline(ids: Tensor) -> None:
    plain, more = built(toy_model()), mixed(MIX)(Place(vocab=VOCAB))
    more.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(more(ids), plain(ids))


def test_a_folded_model_says_the_same_bit_for_bit(ids: Tensor) -> None:
    """Also with another view behind the mix, as fake quantization would be."""
    for views in ((MIX,), (only("*", part(HeadMix), on="q,k,v"), part(Halved))):
        model = built(mixed(*views))
        before, raw = model(ids), attention(model, 1).q.weight.clone()
        assert fold(model) == 3 * (2 if len(views) == 1 else 3)
        assert torch.equal(model(ids), before)
        q = attention(model, 1).q
        assert (q.weight - raw).abs().max() > 1e-2, "the matrix has changed"
        assert torch.equal(cast(HeadMix, q.view[0]).weight, torch.eye(4))
        fold(model)
        assert torch.equal(model(ids), before), "folding twice is folding once"


def test_folding_mixes_that_follow_each_other(ids: Tensor) -> None:
    model = built(mixed(MIX, MIX))
    before = model(ids)
    assert fold(model) == 12
    assert (model(ids) - before).abs().max() < 1e-5


def test_a_model_without_mixes_is_left_alone(ids: Tensor) -> None:
    model = built(toy_model())
    state = {name: p.clone() for name, p in model.state_dict().items()}
    assert fold(model) == 0
    assert all(torch.equal(p, state[name]) for name, p in model.state_dict().items())


def test_a_mix_behind_another_view_cannot_be_folded() -> None:
    model = built(mixed(part(Halved), MIX))
    state = {name: p.clone() for name, p in model.state_dict().items()}
    with pytest.raises(RecipeError, match=r"acts before HeadMix") as error:
        fold(model)
    assert error.value.place == "blocks.0.mixer.q"
    assert all(torch.equal(p, state[name]) for name, p in model.state_dict().items()), "nothing was folded"


def test_shared_matrices_fold_once_where_they_share_the_mix(ids: Tensor) -> None:
    model = built(mixed(MIX))
    first, second = attention(model, 0).q, attention(model, 2).q
    second.weight = first.weight
    with pytest.raises(RecipeError, match=r"different mixes"):
        fold(model)
    cast(HeadMix, second.view[0]).weight = cast(HeadMix, first.view[0]).weight
    before = model(ids)
    assert fold(model) == 5
    assert torch.equal(model(ids), before)


def test_a_matrix_without_heads_cannot_be_mixed() -> None:
    with pytest.raises(RecipeError, match=r"'up' has no heads to mix"):
        mixed(part(HeadMix), on="block.mlp.linear")(Place(vocab=VOCAB))
    with pytest.raises(RecipeError, match=r"'out' has no heads"):
        part(Linear, view=(part(HeadMix),))(AT.matrix(32, 32, name="out"))
