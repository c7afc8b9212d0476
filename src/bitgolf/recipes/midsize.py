"""Between quickstart and baseline: 4.6 million parameters, 8 hours of training on a laptop, at most 2,500,000 bytes."""

from __future__ import annotations

from bitgolf.config.edits import replace
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import ShuffledWindows
from bitgolf.model.attention.attention import Attention, QGain
from bitgolf.model.mlp import MLP, SquaredLeakyReLU
from bitgolf.optim.muon import Muon
from bitgolf.pack.coders import RangeCoder
from bitgolf.pack.settings import Pack
from bitgolf.quantize.calibration.calibrate import Calibrate
from bitgolf.quantize.calibration.sources import TrainingText
from bitgolf.quantize.codecs.codec import Float
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.recipes.baseline import baseline
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.adapt.ngram_mixing import NGramMixing
from bitgolf.score.methods import ContiguousScoring, SlidingScoring


def midsize() -> Spec[Recipe]:
    """A narrower baseline with squared leaky ReLU, as later records have it.

    It is stored by trellis quantization and a range coder, and scored with n-gram mixing.
    """
    recipe = baseline().replace(
        name="midsize",
    )
    recipe = recipe.set("model.dim", 256).set("model.layers", 6).set("tokens.vocab", 4096)
    recipe = recipe.edit(Attention, replace(heads=4, kv_heads=2)).edit(QGain, replace(init=2.0))
    recipe = recipe.edit(MLP, replace(hidden=768, act=part(SquaredLeakyReLU, slope=0.5)))
    recipe = recipe.edit(Muon, replace(lr=0.02, weight_decay=0.04))
    train = recipe["train"].replace(
        seconds=8 * 3600.0,
        steps=0,
        rows=32,
        length=512,
        micro_rows=8,
        order=part(ShuffledWindows),
        checkpoint_seconds=300.0,
    )
    return recipe.replace(
        train=train,
        quantize=(
            part(Rule, where="scale", use=part(Float, dtype="float16")),
            part(Rule, where="*", use=part(TrellisCodec, bits=4.25)),
        ),
        calibrate=part(Calibrate, source=part(TrainingText, batches=32)),
        pack=part(Pack, cap=2_500_000, counted="model", coder=part(RangeCoder, variance_contexts=True)),
        score=(
            part(ContiguousScoring, window=512),
            part(SlidingScoring, window=512, stride=128),
            part(NGramMixing, window=512, stride=128),
        ),
    )
