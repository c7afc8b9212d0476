"""A part that fails, or returns a wrong shape, is named by its path in the recipe before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append, replace
from bitgolf.config.ranges import Width
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.attention.attention import Attention
from bitgolf.model.block import Block
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.head import TiedHead
from bitgolf.model.interfaces import Activation, LogitsTransform, ResidualStreamPart, ValuePart
from bitgolf.model.mlp import MLP
from bitgolf.model.part import only
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.recipes.check import check_recipe
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.training.setup import setup_trainer
from helpers.toy import toy_recipe
from helpers.toy_training import make_data, make_trainer


class HalvedActivation(Activation):
    """Returns half of the hidden units."""

    def forward(self, u: Tensor) -> Tensor:
        return u[..., ::2]


class PooledStream(ResidualStreamPart):
    """Returns the mean over the positions, which broadcasts without an error."""

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        return x.mean(1, keepdim=True)


class PairOfLogits(LogitsTransform):
    """Returns two tensors."""

    def forward(self, z: Tensor) -> Any:
        return z, z


class FailingValue(ValuePart):
    """Multiplies matrices whose shapes do not agree."""

    def forward(self, v: Tensor, x: Tensor, context: ForwardContext) -> Tensor:
        return v @ torch.zeros(3, 5)


class FailingConstructor(ResidualStreamPart):
    """A part whose constructor has a mistake."""

    def __init__(self, context: BuildContext, /, *, width: Width = 3) -> None:
        super().__init__()
        self.product = torch.zeros(2, 3) @ torch.zeros(width + 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("where", "edit", "path", "message"),
    [
        (MLP, replace(act=part(HalvedActivation)), "model.block.mlp.act", r"returns \(1, 32, 24\) .* \(1, 32, 48\)"),
        (
            Block,
            append(pre_block=part(PooledStream)),
            "model.block.pre_block",
            r"PooledStream returns \(1, 1, 32\) .* \(1, 32, 32\)",
        ),
        (
            Block,
            append(pre_block=only("last 1", part(PooledStream))),
            "model.block.pre_block",
            r"PooledStream returns \(1, 1, 32\)",
        ),
        (TiedHead, append(logits_transforms=part(PairOfLogits)), "model.head.logits_transforms", "returns tuple"),
        (Attention, append(value=part(FailingValue)), "model.block.mixer.value", "FailingValue fails .*RuntimeError"),
    ],
)
def test_a_wrong_part_is_named_by_its_path(where: type, edit: Any, path: str, message: str, data: Path) -> None:
    recipe: Spec[Recipe] = toy_recipe(steps=2).edit(where, edit)
    with pytest.raises(RecipeError, match=message) as caught:
        setup_trainer(make_trainer(data, recipe), RunLog(quiet=True))
    assert caught.value.where.startswith(path)


def test_right_parts_pass_and_no_hook_is_left(data: Path) -> None:
    trainer = make_trainer(data)
    setup_trainer(trainer, RunLog(quiet=True))
    hooks = [m for m in trainer.loss_module.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooks == []


def test_a_constructor_that_fails_is_named_by_its_path() -> None:
    recipe = toy_recipe().edit(Block, append(pre_block=part(FailingConstructor)))
    with pytest.raises(RecipeError, match=r"FailingConstructor cannot be built \(RuntimeError") as caught:
        check_recipe(recipe)
    index = len(toy_recipe()["model.block.pre_block"])
    assert caught.value.where == f"model.block.pre_block.{index}"


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("model.block.mixer.heads", 7, "model.block.mixer"),
        ("train.steps", 0, "train"),
        ("score.1.stride", 64, "score.1.stride"),
        ("quantize.1.use", part(IntRows, bits=4, multiple=100), "quantize.1.use.multiple"),
    ],
)
def test_settings_that_contradict_each_other_name_their_path(path: str, value: Any, where: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_recipe(toy_recipe().set(path, value))
    assert caught.value.where == where
