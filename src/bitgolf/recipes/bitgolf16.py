"""A recipe of this project for 16,000,000 bytes and 600 s on 8 H100: pr2135's training, trellis codec, bigram table.

Training follows openai/parameter-golf, pull request 2135 (pr1855 with another learning rate, more calibration and one
phase of adaptation). Trellis quantization needs fewer bits per weight for the same loss; the bytes that it saves hold a
hashed bigram table, which costs no matrix product. It was not yet trained at full size: `bench/recipes_by_cap.py` compares it,
scaled, with the published systems.
"""

from __future__ import annotations

from bitgolf.config.edits import replace
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.model.inits import OrthogonalInit
from bitgolf.model.linear import Linear
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.optim.muon import Muon
from bitgolf.pack.coders import RangeCoder
from bitgolf.pack.settings import Pack
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.recipes._common import FLOAT16, FLOAT16_GATES, calibrate_on_training_text
from bitgolf.recipes.pr1855 import pr1855
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.phased_lora import PhasedLoRA, even_boundaries

BITS = 3.0
"""Mean bits per weight of matrices and tables, at which the forecast is within the cap."""


def bitgolf16() -> Spec[Recipe]:
    recipe = pr1855().replace(name="bitgolf16").edit(Muon, replace(lr=0.028))
    return recipe.set("model.post_embed", (bigrams(), *recipe["model.post_embed"])).replace(
        calibrate=calibrate_on_training_text(32),
        quantize=(
            part(Rule, where="scale", use=FLOAT16),
            *FLOAT16_GATES,
            part(Rule, where="*", use=part(TrellisCodec, bits=BITS)),
        ),
        pack=part(Pack, cap=16_000_000, coder=part(RangeCoder, variance_contexts=True)),
        score=(recipe["score.0"], adaptation(recipe["score.1"])),
    )


def bigrams() -> Spec[HashedNGramEmbedding]:
    """A table of 65,536 rows of width 64, masked at document starts."""
    project = part(Linear, init=part(OrthogonalInit, min_side=64))
    return part(HashedNGramEmbedding, buckets=65_536, width=64, project=project, mask_starts=True)


def adaptation(phased: Spec[PhasedLoRA]) -> Spec[PhasedLoRA]:
    """pr1855's adaptation with #2135's settings: one phase, no adapters on keys, a longer window, stronger decay."""
    lora = replace(
        window=2560,
        lr=8e-5,
        weight_decay=2.0,
        target_modules=("head", "q", "v", "mixer", "mlp"),
    )
    return phased.edit(DocumentLoRA, lora).replace(boundaries=even_boundaries(2500, 1))
