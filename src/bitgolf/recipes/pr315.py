"""pr287 with rotary positions on 16 of 64 dimensions, norms scaled by depth, and fake quantization at the end.

Source: openai/parameter-golf, pull request 315. As its author found, the compiler folded the switch for fake
quantization away, so that the published run had none. Here it takes effect once the learning rate is below a tenth of
its peak.
"""

from __future__ import annotations

from bitgolf.config.edits import append, replace
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.block import Block
from bitgolf.model.qat import FakeQuant
from bitgolf.model.residual import DepthScaledNorm
from bitgolf.recipes._common import int_rows_with_step_floor
from bitgolf.recipes.pr287 import pr287
from bitgolf.recipes.recipe import Recipe


def pr315() -> Spec[Recipe]:
    recipe = pr287().replace(name="pr315").edit(RoPE, replace(dims=16)).edit(Block, replace(norm=part(DepthScaledNorm)))
    return with_late_qat(recipe, below=0.1, warmdown=3000, steps=7051)


def with_late_qat(recipe: Spec[Recipe], *, below: float, warmdown: int, steps: int) -> Spec[Recipe]:
    """The recipe with int6 fake quantization of every matrix of the blocks, late in training.

    It starts where the learning rate falls below the share `below` of its peak, in a run of `steps` steps of which the
    last `warmdown` are the warm-down.
    """
    # As published, training clips at the maximum, whatever the codec does.
    trained = int_rows_with_step_floor(clip=part(MaxClip), full_range=True)
    fake = part(FakeQuant, codec=trained, since=round(1 - below * warmdown / steps, 3))
    return recipe.edit("model.block.**.linear", append(weight_transforms=fake))
