"""The recipe `bitgolf16`: what it has of pull request 2135, and that artifact and script are within the cap by forecast."""

from __future__ import annotations

from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.smear import ContentSmear
from bitgolf.pipeline.forecast import forecast_recipe
from bitgolf.recipes import get_recipe


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


def test_the_forecast_of_artifact_and_script_is_within_the_cap() -> None:
    recipe, largest_script = get_recipe("bitgolf16"), 98_000
    assert (recipe["pack.cap"], recipe["pack.counted"]) == (16_000_000, "model+code")
    size = forecast_recipe(recipe(), recipe["tokens.vocab"]).forecast.bytes + largest_script
    assert 0.96 < size / recipe["pack.cap"] < 0.99, "forecasts of the trellis codec err by 2 %"
