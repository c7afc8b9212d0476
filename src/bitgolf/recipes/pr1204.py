"""pr1060 with two lanes from layer 7 on, and layers 4 and 5 repeated from mid-training with MLPs of their own.

Source: openai/parameter-golf, pull request 1204. Layer numbers in this file count the repeats: 13 layers in all. The
parameter count of the logged runs implies bigrams of width 160. "final_lane=mlp" in the logs is a fixed text; the
script uses the mean of the lanes. The original differs as follows:

- Layer 0 has attention weights but does not use them.
- The repeats copy matrices only. Before they start, layers are numbered without them, and these numbers choose the
  vectors, the scales of norms and the layers with value embeddings.
- The "lower rate" of the first five layers scales their gradients, which has no effect under Muon.
- Of 67 matrices, 32 are stored in int6: all of the repeated layers, and those with the largest inputs. The logs name
  four of the latter; the other twelve are int5 here.
"""

from __future__ import annotations

from bitgolf.config.edits import replace
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import SearchClip
from bitgolf.model.layer_schedule import GatedSkip, UNet
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.residual_topology import SequentialTwoLaneResidual
from bitgolf.model.weight_sharing import LoopWithUntiedMLP
from bitgolf.optim.muon import Muon
from bitgolf.pack.byte_coders import Brotli
from bitgolf.recipes._common import (
    calibrate_on_generated_text,
    codec_rules,
    gptq_damped_twice,
    int_rows_with_step_floor,
)
from bitgolf.recipes.pr1060 import pr1060
from bitgolf.recipes.recipe import Recipe

SIX_BITS = ("4.**", "5.**", "6.**", "7.**", "1.mixer.q", "1.mixer.out", "2.mixer.out", "3.mixer.out")


def pr1204() -> Spec[Recipe]:
    recipe = pr1060().replace(name="pr1204", calibrate=calibrate_on_generated_text()).edit(Muon, replace(lr=0.03))
    repeats = part(LoopWithUntiedMLP, first_layer=4, last_layer=5, since=0.44)  # step 3,000, at 264 of 600 seconds
    recipe = recipe.edit("model", replace(layers=13, weight_sharing=(repeats,))).edit(
        HashedNGramEmbedding, replace(width=160)
    )
    lanes = part(SequentialTwoLaneResidual, start_layer=9, num_weights=11)
    recipe = recipe.edit(UNet, replace(order=repeats, residual=lanes, skip=part(GatedSkip)))
    recipe = recipe.set("model.block.mixer.post_attention.0.layers", "last 11").set(
        "model.block.mixer.value.0.layers", "9-10"
    )
    five, six = (
        int_rows_with_step_floor(bits, clip=part(SearchClip, per_row=False), solver=gptq_damped_twice())
        for bits in (5, 6)
    )
    finer = tuple(part(Rule, where=f"matrix@blocks.{where}.weight", use=six) for where in SIX_BITS)
    return recipe.set("pack.coder", part(Brotli)).replace(
        quantize=(part(Rule, where="matrix@post_embed.0.**", use=five), *codec_rules(five, *finer)),
    )
