"""Two lanes from layer 7 on, and layers 4 and 5 a second time from mid-training, with MLPs of their own.

Source: openai/parameter-golf, pull request 1204. Layers have the numbers that they have with the repeats, 13 in all. The
logged runs had bigrams of width 160, by their count of parameters; "final_lane=mlp" in its logs is a fixed text, the
script goes on with the mean. Where this is not the original: its layer 0 had no attention (but its weights), its
repeats copied matrices alone, and until they came its layers had numbers without them, by which it chose vectors,
scales of norms and the layers with value embeddings. What it calls a lower rate of the first five layers scaled their
gradients, to which Muon is blind. Of 67 matrices it stored 32 in int6, the others in int5: all of the layers that
repeat, and those whose inputs were largest. Of these the logs name four, and the twelve others have int5 here.
"""

from __future__ import annotations

from bitgolf.config.edits import but
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import SearchClip
from bitgolf.model.layer_schedule import GatedSkip, UNet
from bitgolf.model.ngram_embedding import HashedBigrams
from bitgolf.model.residual_topology import TwoLanesInTurn
from bitgolf.model.weight_sharing import UntiedRepeats
from bitgolf.optim.muon import Muon
from bitgolf.pack.byte_coders import Brotli
from bitgolf.recipes._common import codec, floored, on_own_samples, twice_damped
from bitgolf.recipes.pr1060 import pr1060
from bitgolf.recipes.recipe import Recipe

SIX_BITS = ("4.**", "5.**", "6.**", "7.**", "1.mixer.q", "1.mixer.out", "2.mixer.out", "3.mixer.out")


def pr1204() -> Spec[Recipe]:
    recipe = pr1060().but(name="pr1204", calibrate=on_own_samples()).edit(Muon, but(lr=0.03))
    repeats = part(UntiedRepeats, first=4, last=5, since=0.44)  # step 3,000 came at 264 of 600 seconds
    recipe = recipe.edit("model", but(layers=13, share=(repeats,))).edit(HashedBigrams, but(width=160))
    lanes = part(TwoLanesInTurn, start=9, rows=11)
    recipe = recipe.edit(UNet, but(order=repeats, wiring=lanes, skip=part(GatedSkip)))
    recipe = recipe.set("model.block.mixer.after.0.layers", "last 11").set("model.block.mixer.value.0.layers", "9-10")
    five, six = (floored(bits, clip=part(SearchClip, per_row=False), solve=twice_damped()) for bits in (5, 6))
    finer = tuple(part(Rule, where=f"matrix@blocks.{where}.weight", use=six) for where in SIX_BITS)
    return recipe.set("pack.coder", part(Brotli)).but(
        quantize=(part(Rule, where="matrix@enter.0.**", use=five), *codec(five, *finer)),
    )
