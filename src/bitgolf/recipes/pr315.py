"""Rotary positions on 16 of 64 dimensions, norms scaled by depth, fake quantization at the end.

Source: openai/parameter-golf, pull request 315. Its switch for fake quantization was folded away by the compiler, as the
author found: the published run had none. Here it acts, from where the learning rate falls under a tenth.
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
    """Fake int6 in every matrix of the blocks from where a warm-down of so many of the run's steps falls under `below`."""
    trained = int_rows_with_step_floor(
        clip=part(MaxClip), full_range=True
    )  # another clip than the codec's, as published
    fake = part(FakeQuant, codec=trained, since=round(1 - below * warmdown / steps, 3))
    return recipe.edit("model.block.**.linear", append(weight_transforms=fake))
