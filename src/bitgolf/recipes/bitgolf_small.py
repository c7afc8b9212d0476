"""A recipe of this project for 1,000,000 bytes and 300 s on two CPU cores: quickstart's model with what helps short runs.

Measured at a million parameters and 250 steps (docs/techniques.md): hashed bigrams -0.044 bits per byte, smeared
embeddings -0.047, value residuals -0.013, row normalization in Muon -0.010. Techniques of the published systems that did
harm there are left out: rotary positions on a part of each head, norms scaled by depth, orthogonal initialization.
"""

from __future__ import annotations

from bitgolf.config.edits import append, replace
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.values import ValueResidual
from bitgolf.model.mlp import MLP
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.smear import BlendSmear
from bitgolf.optim.muon import Muon
from bitgolf.optim.muon_transforms import RowNorm
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.recipes.quickstart import quickstart
from bitgolf.recipes.recipe import Recipe
from bitgolf.text.documents import CommandLineText


def bitgolf_small() -> Spec[Recipe]:
    recipe = quickstart().replace(name="bitgolf_small", text=part(CommandLineText), proof=None)
    recipe = recipe.set("train.seconds", 300.0).set("model.dim", 176).set("model.layers", 3)
    recipe = recipe.edit(MLP, replace(hidden=528)).edit(TrellisCodec, replace(bits=4.5))
    recipe = recipe.edit(Attention, append(value=part(ValueResidual)))
    recipe = recipe.edit(Muon, replace(pre_orthogonalize=(part(RowNorm),)))
    table = part(HashedNGramEmbedding, buckets=8192, width=32, mask_starts=True)
    return recipe.set("model.post_embed", (table, part(BlendSmear), *recipe["model.post_embed"]))
