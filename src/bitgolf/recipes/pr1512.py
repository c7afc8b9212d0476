"""pr1019 with window attention (256 keys) on six of eleven layers, key offset on the others, and rows of 4,096 tokens.

One of the four systems that Bitgolf started from. Source: openai/parameter-golf, pull request 1512, commit 3cca46c. Its
files are 16.11 to 16.12 MB, over the cap of 16 MB: its target of 15.9 was multiplied by 1,024 twice.
"""

from __future__ import annotations

from bitgolf.config.edits import append, replace
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import QGain, QKNorm
from bitgolf.model.attention.cores.sdpa import SDPACore, SlidingWindowMask
from bitgolf.model.attention.key_offset import KeyOffset
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.rope_scaling import NTKScaling
from bitgolf.model.part import only
from bitgolf.model.qat import FakeQuant
from bitgolf.recipes.pr1019 import pr1019
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.methods import ContiguousScoring, SlidingScoring


def pr1512() -> Spec[Recipe]:
    recipe = (
        pr1019().replace(name="pr1512").edit(SDPACore, append(masks=only("0-5", part(SlidingWindowMask, left=256))))
    )
    rope = part(RoPE, base=10_000.0, dims=16, scaling=part(NTKScaling, original_length=1024, length=4096))
    offset = only("6-10", part(KeyOffset, unshifted_dims=16))
    recipe = recipe.set("model.block.mixer.qk", (part(QKNorm), rope, offset, part(QGain, init=2.5)))
    recipe = recipe.edit("train", replace(rows=192, length=4096, micro_rows=24))
    recipe = recipe.edit(FakeQuant, replace(since=round(1 - 0.15 * 4000 / 7285, 3)))
    return recipe.replace(
        score=(part(ContiguousScoring, window=4096), part(SlidingScoring, window=4096, stride=64)),
    )
