"""Eleven layers with SwiGLU and exclusive self-attention on the last four, trained for 4,850 seconds on one GPU.

One of the four systems that Bitgolf started from. Source: openai/parameter-golf, pull request 1090. This recipe is the
logged run, which has 589,825 parameters more than the shipped script: hashed bigrams, 4,096 of width 128. The shipped
script is `pr1090_as_shipped`. The weight decay of 0.04 in its report never reached the optimizer.
"""

from __future__ import annotations

import math

from bitgolf.average.swa import SWA
from bitgolf.config.edits import append, replace
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.exclusive import ExclusiveSelfAttention
from bitgolf.model.inits import OrthogonalInit
from bitgolf.model.linear import Linear
from bitgolf.model.mlp import SwiGLU
from bitgolf.model.part import only
from bitgolf.model.residual import EmbeddingNorm
from bitgolf.model.smear import BlendSmear
from bitgolf.pack.byte_coders import Zstd
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.recipes._common import FLOAT16
from bitgolf.recipes.baseline import baseline
from bitgolf.recipes.pr162 import hashed_bigrams
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.methods import ContiguousScoring


def pr1090() -> Spec[Recipe]:
    recipe = baseline().replace(name="pr1090", average=part(SWA, every=200, lr_scale_below=1.0)).set("model.layers", 11)
    recipe = recipe.edit(
        "model", replace(post_embed=(hashed_bigrams(4096, layers=11), part(EmbeddingNorm), part(BlendSmear)))
    )
    swiglu = part(SwiGLU, hidden=64 * math.ceil(2 * 3 * 512 / 3 / 64), linear=part(Linear, init=part(OrthogonalInit)))
    recipe = recipe.set("model.block.mlp", swiglu).edit("model.block.mixer.linear", replace(init=part(OrthogonalInit)))
    recipe = recipe.edit(Attention, append(post_attention=only("last 4", part(ExclusiveSelfAttention, eps=1e-4))))
    recipe = recipe.edit("train", replace(seconds=4850.0, rows=256, length=2048, micro_rows=32)).set(
        "train.lr_schedule.steps", 3000
    )
    rows = part(IntRows, clip=part(MaxClip), full_range=True)
    return recipe.set("pack.coder", part(Zstd, level=22)).replace(
        quantize=(
            part(Rule, where="scale", use=FLOAT16),
            part(Rule, where="embedding@embed.**", use=rows.replace(bits=8)),
            part(Rule, where="matrix@blocks.*.mlp.**", use=rows.replace(bits=5)),
            part(Rule, where="*", use=rows.replace(bits=6)),
        ),
        score=(
            part(ContiguousScoring, window=2048),
            part(
                DocumentLoRA,
                window=256,
                stride=256,
                target_modules=("q", "v"),
                alpha=1.0,
                lr=0.05,
                betas=(0.9, 0.999),
                eps=1e-8,
            ),
        ),
    )
