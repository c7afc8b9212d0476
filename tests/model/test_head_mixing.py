"""Head mixing: linear combinations of the projections of the heads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.attention.head_mixing import HeadMix
from bitgolf.model.interfaces import WeightTransform
from bitgolf.model.linear import Linear
from bitgolf.model.lm import LM
from bitgolf.model.parameters import parameter_roles
from bitgolf.model.part import only
from helpers.toy import VOCAB, built, toy_model

AT = BuildContext(vocab=VOCAB, dim=32, layers=3, layer=0, heads=4, kv_heads=2)
MIX = only("*", part(HeadMix), on="q,k")


def mixed(*views: Spec[WeightTransform], on: str = "block.mixer.linear") -> Spec[LM]:
    return toy_model().edit(on, replace(weight_transforms=views))


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(2, VOCAB, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "blocks"), [("q", 4), ("k", 2), ("v", 2)])
def test_a_mix_is_a_kronecker_product_with_the_identity(name: str, blocks: int) -> None:
    mix, w = HeadMix(AT.for_matrix(32, 8 * blocks, name=name)).double(), torch.randn(8 * blocks, 32).double()
    assert torch.equal(mix.weight, torch.eye(blocks).double()) and torch.equal(mix(w), w)
    torch.nn.init.normal_(mix.weight)
    assert torch.allclose(mix(w), torch.kron(mix.weight, torch.eye(8).double()) @ w)


def test_it_stands_on_queries_and_keys_with_its_own_role(ids: Tensor) -> None:
    model = mixed(MIX)(BuildContext(vocab=VOCAB))
    found = {path: role for path, role in parameter_roles(model).items() if "weight_transforms" in path}
    assert found == {f"blocks.{i}.mixer.{m}.weight_transforms.0.weight": "scale" for i in range(3) for m in "qk"}
    assert sum(model.get_parameter(path).numel() for path in found) == 3 * (16 + 4)


def test_the_identity_is_the_baseline(ids: Tensor) -> None:
    plain, more = built(toy_model()), mixed(MIX)(BuildContext(vocab=VOCAB))
    more.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(more(ids), plain(ids))


def test_a_matrix_without_heads_cannot_be_mixed() -> None:
    with pytest.raises(RecipeError, match=r"applies to the matrices q, k and v, not to 'up'"):
        mixed(part(HeadMix), on="block.mlp.linear")(BuildContext(vocab=VOCAB))
    with pytest.raises(RecipeError, match=r"not to 'out'"):
        part(Linear, weight_transforms=(part(HeadMix),))(AT.for_matrix(32, 32, name="out"))
