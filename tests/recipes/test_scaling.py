"""Recipes scaled to a smaller cap: which sizes change, and that the result can be built and fits."""

from __future__ import annotations

from typing import Any

import pytest

from bitgolf.average.ema import EMA
from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.cores.scheduled_segments import ScheduledSegmentMask
from bitgolf.model.build import build_on_meta
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.mlp import MLP
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.optim.schedules import LinearRamp
from bitgolf.recipes import get_recipe
from bitgolf.recipes.recipe import Recipe
from bitgolf.recipes.scaling import Scale, scale_recipe
from bitgolf.score.adapt.phased_lora import PhasedLoRA

SMALL = Scale(cap=1_000_000, vocab=2048, seconds=300.0, steps=600)


def six_bits(recipe: Spec[Recipe]) -> int:
    """A forecast of six bits per weight, without encoding a sample."""
    model = build_on_meta(recipe["model"], recipe["tokens.vocab"])
    return sum(p.numel() for p in model.parameters()) * 6 // 8


def nodes(recipe: Spec[Recipe], cls: type) -> list[Spec[Any]]:
    return [node for _, node in recipe.walk() if node.cls is cls]


@pytest.mark.parametrize("name", ["baseline", "pr1855", "bitgolf16", "bitgolf_small"])
@pytest.mark.parametrize("cap", [250_000, 1_000_000])
def test_a_scaled_recipe_fills_the_cap_with_the_same_techniques(name: str, cap: int) -> None:
    whole = get_recipe(name)
    small = scale_recipe(whole, SMALL._replace(cap=cap, full_steps=600), six_bits)
    assert 0.5 * cap < six_bits(small) <= cap
    assert {node.name for _, node in small["model"].walk()} == {node.name for _, node in whole["model"].walk()}
    assert small["pack.cap"] == cap and small["train.rows"] * small["train.length"] == 2048
    assert (small["train.seconds"], small["train.steps"], small["tokens.vocab"]) == (300.0, 0, 2048)
    small["model"](BuildContext(vocab=2048))


def test_segments_are_no_longer_than_a_row() -> None:
    """Those of training, and those of scoring, which are longer at full size."""
    for name, stages in (("bitgolf16", ((256, 1.0),)), ("pr2014", ((256, 0.1), (256, 0.7)))):
        (mask,) = nodes(scale_recipe(get_recipe(name), SMALL._replace(full_steps=600), six_bits), ScheduledSegmentMask)
        assert mask["max_length"] == 256 and mask["stages"] == stages


def test_widths_depth_and_named_layers_keep_their_proportions() -> None:
    whole = get_recipe("pr1855")
    small = scale_recipe(whole, SMALL, six_bits)
    assert small["model.layers"] == 4  # 11 / 16^(1/3) = 4.4
    (attention, mlp, loop) = (nodes(small, cls)[0] for cls in (Attention, MLP, LoopedLayers))
    assert mlp["hidden"] == 4 * small["model.dim"] and small["model.dim"] % 16 == 0
    assert attention["heads"] == 2 * attention["kv_heads"] and small["model.dim"] // attention["heads"] >= 32
    assert (loop["first_layer"], loop["last_layer"]) == (1, 2)  # 3 to 5 of 0 to 10, in 0 to 3
    assert small["model.post_embed.0.width"] == 12, "the inputs of a gate are few already"


def test_schedules_in_steps_keep_their_share_of_the_run() -> None:
    whole = get_recipe("pr1855")
    small = scale_recipe(whole, SMALL, six_bits)
    assert nodes(small, LinearRamp)[0]["steps"] == round(1500 * 600 / whole["published"]["steps"])
    horizon = 1 / (1 - nodes(small, EMA)[0]["decay"])
    assert horizon / 600 == pytest.approx(1 / (1 - 0.9965) / whole["published"]["steps"], rel=0.02)
    twice = scale_recipe(whole, SMALL._replace(steps=1200), six_bits)
    assert nodes(twice, LinearRamp)[0]["steps"] == pytest.approx(2 * nodes(small, LinearRamp)[0]["steps"], abs=1)


def test_a_hashed_table_keeps_its_share_of_the_weights() -> None:
    def share(recipe: Spec[Recipe]) -> float:
        table = nodes(recipe, HashedNGramEmbedding)[0]
        return table["buckets"] * table["width"] / six_bits(recipe)

    whole = get_recipe("bitgolf16")
    small = scale_recipe(whole, SMALL, lambda recipe: six_bits(recipe) // 2)  # the recipe has three bits per weight
    assert 0.6 < share(small) / share(whole) < 1.6
    assert nodes(small, HashedNGramEmbedding)[0]["buckets"].bit_count() == 1


def test_adaptation_begins_at_the_same_share_of_the_documents() -> None:
    small = scale_recipe(get_recipe("pr1855"), SMALL._replace(documents=1000), six_bits)
    (phases,) = nodes(small, PhasedLoRA)
    assert phases["boundaries"] == (16, 33, 50)  # 2,500 of 50,000
    assert phases["lora.window"] == 256 and phases["lora.stride"] == 64 and phases["lora.rows"] == 8
    few = scale_recipe(get_recipe("pr1855"), SMALL._replace(documents=10), six_bits)
    assert nodes(few, PhasedLoRA)[0]["boundaries"] == (1, 2, 3)


def test_a_cap_that_no_width_fits_is_an_error() -> None:
    with pytest.raises(RecipeError, match="no width fits a cap of 1,000 bytes"):
        scale_recipe(get_recipe("baseline"), SMALL._replace(cap=1000), six_bits)
