"""The baseline with an MLP of 3 x width, SmearGate, hashed bigrams, orthogonal initialization and weight averaging.

Source: openai/parameter-golf, pull request 162.
"""

from __future__ import annotations

from bitgolf.average.swa import SWA
from bitgolf.config.edits import replace
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip
from bitgolf.model.inits import OrthogonalInit
from bitgolf.model.linear import Linear
from bitgolf.model.mlp import MLP
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.residual import EmbeddingNorm
from bitgolf.model.smear import BlendSmear
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import LinearRamp, WarmdownSteps
from bitgolf.pack.byte_coders import Zstd
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.recipes._common import FLOAT16, codec_rules, optimizer_rules
from bitgolf.recipes.baseline import baseline
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.methods import ContiguousScoring, SlidingScoring


def pr162() -> Spec[Recipe]:
    recipe = baseline().replace(name="pr162", average=part(SWA, every=50, lr_scale_below=0.5))
    recipe = recipe.edit(
        "model", replace(post_embed=(hashed_bigrams(4096, layers=9), part(EmbeddingNorm), part(BlendSmear)))
    )
    recipe = recipe.edit(MLP, replace(hidden=1536)).edit("model.block.**.linear", replace(init=part(OrthogonalInit)))
    recipe = recipe.edit(
        "train",
        replace(
            rows=384,
            length=2048,
            micro_rows=48,
            grad_clip=0.3,
            lr_schedule=part(WarmdownSteps, steps=3000),
            optim=optimizer_rules(
                part(Muon, lr=0.02, momentum=part(LinearRamp, start=0.92, end=0.99, steps=1500), weight_decay=0.04),
                part(Adam, lr=0.03, weight_decay=0.01),
                part(Adam, lr=0.02, weight_decay=0.01),
            ),
        ),
    )
    return recipe.set("pack.coder", part(Zstd, level=22)).replace(
        quantize=codec_rules(part(IntRows, bits=6, clip=part(MaxClip), full_range=True), *float16_rules()),
        score=(part(ContiguousScoring, window=2048), part(SlidingScoring, window=2048, stride=64)),
    )


def hashed_bigrams(rows: int, *, layers: int, width: int = 128) -> Spec[HashedNGramEmbedding]:
    """Hashed bigrams whose projection starts orthogonal with a gain of 1/sqrt(2 layers).

    rows: number of buckets. The gain is that of the scripts' generic initialization.
    """
    gain = (2 * layers) ** -0.5
    return part(
        HashedNGramEmbedding, buckets=rows, width=width, project=part(Linear, init=part(OrthogonalInit, gain=gain))
    )


def float16_rules() -> tuple[Spec[Rule], ...]:
    """Rules for the large tensors that are stored in float16: the token embedding and the key matrix of block 8."""
    return (
        part(Rule, where="embedding@embed.**", use=FLOAT16),
        part(Rule, where="matrix@blocks.8.mixer.k.weight", use=FLOAT16),
    )
