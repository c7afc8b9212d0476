"""Nine layers with three times as wide an MLP, SmearGate, hashed bigrams, orthogonal start and weight averaging.

Source: openai/parameter-golf, pull request 162.
"""

from __future__ import annotations

from bitgolf.average.swa import Swa
from bitgolf.config.edits import but
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip
from bitgolf.model.inits import Orthogonal
from bitgolf.model.linear import Linear
from bitgolf.model.mlp import MLP
from bitgolf.model.ngram_embedding import HashedBigrams
from bitgolf.model.residual import Normalize
from bitgolf.model.smear import BlendSmear
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import Ramp, WarmdownSteps
from bitgolf.pack.byte_coders import Zstd
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.recipes._common import HALF, codec, groups
from bitgolf.recipes.baseline import baseline
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.methods import Contiguous, Sliding


def pr162() -> Spec[Recipe]:
    recipe = baseline().but(name="pr162", average=part(Swa, every=50, below=0.5))
    recipe = recipe.edit("model", but(enter=(bigrams(4096, layers=9), part(Normalize), part(BlendSmear))))
    recipe = recipe.edit(MLP, but(hidden=1536)).edit("model.block.**.linear", but(init=part(Orthogonal)))
    recipe = recipe.edit(
        "train",
        but(
            rows=384,
            length=2048,
            micro_rows=48,
            clip=0.3,
            schedule=part(WarmdownSteps, steps=3000),
            optim=groups(
                part(Muon, lr=0.02, momentum=part(Ramp, start=0.92, end=0.99, steps=1500), weight_decay=0.04),
                part(Adam, lr=0.03, weight_decay=0.01),
                part(Adam, lr=0.02, weight_decay=0.01),
            ),
        ),
    )
    return recipe.set("pack.coder", part(Zstd, level=22)).but(
        quantize=codec(part(IntRows, bits=6, clip=part(MaxClip), full_range=True), *whole()),
        score=(part(Contiguous, window=2048), part(Sliding, window=2048, stride=64)),
    )


def bigrams(rows: int, *, layers: int, width: int = 128) -> Spec[HashedBigrams]:
    """Hashed bigrams whose projection starts orthogonal at 1/sqrt(2 layers), as the generic start of the scripts had it."""
    gain = (2 * layers) ** -0.5
    return part(HashedBigrams, rows=rows, width=width, project=part(Linear, init=part(Orthogonal, gain=gain)))


def whole() -> tuple[Spec[Rule], ...]:
    """What is stored in float16 though it is large: the tokens' table, and the keys of block 8."""
    return (
        part(Rule, where="embedding@embed.**", use=HALF),
        part(Rule, where="matrix@blocks.8.mixer.k.weight", use=HALF),
    )
