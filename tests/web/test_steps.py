"""A page computes what incremental decoding computes, for every recipe and every part."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import ResidualStreamPart
from bitgolf.model.lm import LM
from bitgolf.recipes import get_recipe
from bitgolf.web.program import compile_step
from helpers.every_part import ACROSS_LAYERS, AROUND, all_model_parts, models_with_several_parts, short_model
from helpers.javascript import Node
from helpers.recipe_cover import all_but_exhaustive
from helpers.small_recipes import VOCAB, small_recipe
from helpers.toy import VOCAB as TOY_VOCAB
from helpers.toy import built, toy_model
from helpers.web_model import decoded_logits, page_logits

WINDOW = 20


def text(vocab: int, bos: int) -> list[int]:
    """More tokens than the window has, with the start of another document among them."""
    ids = torch.randint(2, vocab, (WINDOW + 8,), generator=torch.Generator().manual_seed(0)).tolist()
    ids[0] = ids[7] = bos
    return ids


def assert_equal_logits(node: Node, model: LM, vocab: int, *, kernels: bool = True) -> None:
    ids = text(vocab, model.bos)
    found = page_logits(node, model, ids, WINDOW, kernels=kernels)
    expected = decoded_logits(model, ids, WINDOW)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("name", all_but_exhaustive(["bitgolf16", "pr641"]))
def test_a_page_computes_the_logits_of_every_recipe(node: Node, name: str) -> None:
    model = built(small_recipe(get_recipe(name))().model, vocab=VOCAB).requires_grad_(False)
    assert_equal_logits(node, model, VOCAB)


@pytest.mark.parametrize("model", [model for model, _ in models_with_several_parts()])
def test_a_page_computes_what_every_part_does(node: Node, model: Spec[LM]) -> None:
    assert_equal_logits(node, built(model), TOY_VOCAB)


@pytest.mark.parametrize("cls", [c for c in all_model_parts() if issubclass(c, ACROSS_LAYERS) or c in AROUND])
def test_a_page_computes_what_parts_across_layers_do(node: Node, cls: type) -> None:
    assert_equal_logits(node, built(short_model(cls, layers=2)), TOY_VOCAB)


def test_products_in_javascript_are_the_same(node: Node) -> None:
    assert_equal_logits(node, built(toy_model()), TOY_VOCAB, kernels=False)


# ---- what cannot be recorded or written ------------------------------------------------------------------------------


class ReadsValues(ResidualStreamPart):
    """Takes a way that depends on a value."""

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        return 2 * x if x.sum() > 0 else x


class UnknownOperator(ResidualStreamPart):
    """Uses an operator that no page has."""

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        return torch.erf(x)


class ChangesReadConstant(ResidualStreamPart):
    """Writes into a constant after it was read: the next step would read what the last one wrote."""

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        constant = torch.ones(x.shape[-1])
        y = x * constant
        constant[:1] = x[0, 0, :1]
        return y * constant


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (ReadsValues, "it reads computed values in Python"),
        (UnknownOperator, "a page has no operator erf"),
        (ChangesReadConstant, "it changes a constant that was read before"),
    ],
)
def test_a_part_that_no_page_can_have_is_named(cls: type[ResidualStreamPart], message: str) -> None:
    model = built(toy_model())
    cast(nn.ModuleList, model.blocks[1].pre_block).append(cls())
    with pytest.raises(BitgolfError, match=message) as error:
        compile_step(model, WINDOW, {})
    assert "blocks.1.pre_block.1" in error.value.where


class WritesConstant(ResidualStreamPart):
    """Writes into a new tensor: every step begins with its first values."""

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        half = torch.ones_like(x)
        half[..., :5] += x[..., :5]
        return x * half


def test_a_new_tensor_is_new_in_every_step(node: Node) -> None:
    model = built(toy_model())
    cast(nn.ModuleList, model.blocks[1].pre_block).append(WritesConstant())
    assert_equal_logits(node, model, TOY_VOCAB)


def test_recording_leaves_the_model_as_it_was() -> None:
    model = built(toy_model())
    before = {path: p.clone() for path, p in model.state_dict().items()}
    compile_step(model, WINDOW, {})
    assert all(torch.equal(p, before[path]) for path, p in model.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
