"""The edit `qat`: each matrix is trained with the rounding of the codec that stores it."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.grids.clip import MaxClip, SdClip
from bitgolf.grids.scales import Float32Scale
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.values import AddValueEmbedding, ValueEmbedding
from bitgolf.model.build import build_on_meta
from bitgolf.model.linear import Embedding, Linear
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.qat import FakeQuant
from bitgolf.model.residual import EmbeddingNorm
from bitgolf.quantize.codecs.codec import Codec, Float, IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.diagnose.qat_consistency import qat_mismatches
from bitgolf.recipes._qat import qat
from bitgolf.recipes.recipe import Recipe
from helpers.toy import VOCAB, built, toy_recipe

SIX = part(IntRows, bits=6, clip=part(SdClip, k=9.0), min_step=1e-3, prune=0.01, solver=part(GPTQ))


def stored(use: Spec[Codec], *others: Spec[Rule[Codec]]) -> Spec[Recipe]:
    rest = part(Rule, where="*", use=part(Float, dtype="float16"))
    return toy_recipe().set("quantize", (*others, part(Rule, where="matrix", use=use), rest))


@pytest.mark.parametrize("use", [SIX, part(LQER, codec=SIX, top_k=2)], ids=["rows", "corrected rows"])
def test_one_codec_for_all_matrices_is_one_view(use: Spec[Codec]) -> None:
    recipe = qat(stored(use), since=0.5)
    for node in ("model.block.mixer.linear", "model.block.mlp.linear"):
        assert recipe[f"{node}.weight_transforms"] == (part(FakeQuant, codec=SIX.replace(solver=None), since=0.5),)
    assert qat_mismatches(build_on_meta(recipe().model, VOCAB), recipe().quantize) == []


def test_matrices_of_one_node_may_have_codecs_of_their_own() -> None:
    """Rules can select matrices by layer and by name."""
    four, five = part(IntRows, bits=4), part(IntRows, bits=5)
    others = part(Rule, where="matrix@blocks.1.**", use=four), part(Rule, where="matrix@**.q.weight", use=five)
    recipe = qat(stored(SIX, *others))
    model = build_on_meta(recipe().model, VOCAB)
    assert qat_mismatches(model, recipe().quantize) == []
    quantizers = {
        path: [transform.codec.grid.full_qmax for transform in getattr(module, "weight_transforms", ())]
        for path, module in model.named_modules()
        if path.startswith("blocks.") and hasattr(module, "weight_transforms")
    }
    expected = {"blocks.0.mixer.q": [15], "blocks.1.mixer.q": [7], "blocks.0.mlp.up": [31]}
    assert expected.items() <= quantizers.items()
    assert all(len(found) == 1 for found in quantizers.values()), "each matrix has one fake quantization"


def test_tables_and_their_projections_are_rounded_too() -> None:
    """The tables of bigrams and of value embeddings, and their projections, each by the codec that stores it."""
    bigrams = part(HashedNGramEmbedding, buckets=11, width=8)
    values = part(ValueEmbedding, width=8, value_dim=32)
    recipe = toy_recipe().set("model.post_embed", (bigrams, part(EmbeddingNorm), values))
    recipe = recipe.edit(Attention, append(value=part(AddValueEmbedding)))
    eight, six = part(IntRows, bits=8), part(IntRows, bits=6)
    rules = part(Rule, where="embedding", use=eight), part(Rule, where="*", use=six)
    recipe = qat(recipe.set("quantize", rules), where="model.post_embed.**")
    model = build_on_meta(recipe().model, VOCAB)
    assert qat_mismatches(model, recipe().quantize) == []
    bits = {
        path: [cast(Any, transform).codec.grid.full_qmax for transform in module.weight_transforms]
        for path, module in model.named_modules()
        if path.startswith("post_embed.") and isinstance(module, Linear | Embedding)
    }
    assert bits == {
        "post_embed.0.table": [127],
        "post_embed.0.project": [31],
        "post_embed.2.table": [127],
        "post_embed.2.project": [31],
    }


def test_training_may_round_with_steps_that_are_not_rounded() -> None:
    """As in #315 to #1512: float32 steps in training, float16 steps in the file; `show` names the difference."""
    w = torch.linspace(-1, 1, 64).reshape(2, 32)
    settings = {"bits": 6, "clip": part(MaxClip)}
    exact = FakeQuant(BuildContext(vocab=VOCAB), codec=part(IntRows, scales=part(Float32Scale), **settings))
    step = w.abs().amax(1, keepdim=True) / 31
    assert torch.equal(exact.train()(w), (w / step).round().clamp(-31, 31) * step)
    assert not torch.equal(exact(w), FakeQuant(BuildContext(vocab=VOCAB), codec=part(IntRows, **settings))(w))
    recipe = stored(part(IntRows, **settings)).set(
        "model.block.mlp.linear.weight_transforms",
        (part(FakeQuant, codec=part(IntRows, scales=part(Float32Scale), **settings)),),
    )
    (line,) = qat_mismatches(build_on_meta(recipe().model, VOCAB), recipe().quantize)
    assert "Float32Scale()" in line


def test_training_multiplies_with_what_is_stored() -> None:
    recipe = qat(stored(SIX.replace(solver=None)))
    model = built(recipe().model).train()
    linear, codec = cast(Linear, model.get_submodule("blocks.1.mlp.up")), SIX.replace(solver=None)()
    assert torch.equal(linear.effective_weight(), codec.decode(codec.encode(linear.weight), tuple(linear.weight.shape)))


def test_what_training_cannot_repeat_is_refused() -> None:
    with pytest.raises(RecipeError, match="TrellisCodec does not round rows to integers") as caught:
        qat(stored(part(TrellisCodec, bits=3.0)))
    assert caught.value.where == "quantize.0.use" and "IntRows" in caught.value.hint
    with pytest.raises(RecipeError, match=r"no node with weight_transforms is at 'model\.block\.nowhere'"):
        qat(stored(SIX), where="model.block.nowhere")
