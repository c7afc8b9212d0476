"""The recipe `bitgolf16`: what it has of pull request 2135, and that its forecast leaves room for the code."""

from __future__ import annotations

from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.smear import ContentSmear
from bitgolf.pipeline.forecast import forecast_recipe
from bitgolf.recipes import get_recipe
from bitgolf.recipes.bitgolf16 import CODE_BYTES


def test_it_trains_and_adapts_as_2135_with_a_bigram_table() -> None:
    own, other = get_recipe("bitgolf16"), get_recipe("pr2135")
    for name in ("text", "tokens", "train", "average", "calibrate"):
        assert own[name] == other[name], name
    bigrams, smear, *rest = own["model.post_embed"]
    unmasked, *others = other["model.post_embed"]
    assert bigrams.cls is HashedNGramEmbedding and bigrams["mask_starts"]
    assert smear.cls is ContentSmear and smear == unmasked.replace(mask_starts=True) and rest == others
    assert own["model"].replace(post_embed=()) == other["model"].replace(post_embed=())
    assert own["score"] == (other["score.0"], other["score.1.method"])
    assert own["score.0.window"] == own["score.1.lora.window"] == own["model.block.mixer.core.masks.0.max_length"]


def test_its_forecast_leaves_room_for_the_code() -> None:
    recipe = get_recipe("bitgolf16")
    assert CODE_BYTES >= 40_000 and recipe["pack.cap"] + CODE_BYTES == 16_000_000
    size = forecast_recipe(recipe(), recipe["tokens.vocab"]).forecast.bytes
    assert 0.97 < size / recipe["pack.cap"] < 0.99, "forecasts of the trellis codec err by 2 %"
