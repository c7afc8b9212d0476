"""Rotary positions on 16 of 64 dimensions, norms scaled by depth, fake quantization at the end.

Source: openai/parameter-golf, pull request 315. Its switch for fake quantization was folded away by the compiler, as the
author found: the published run had none. Here it acts, from where the learning rate falls under a tenth.
"""

from __future__ import annotations

from bitgolf.config.edits import append, but
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip
from bitgolf.model.attention.rope import Rope
from bitgolf.model.block import Block
from bitgolf.model.qat import FakeQuant
from bitgolf.model.residual import DepthScaledNorm
from bitgolf.recipes._common import floored
from bitgolf.recipes.pr287 import pr287
from bitgolf.recipes.recipe import Recipe


def pr315() -> Spec[Recipe]:
    recipe = pr287().but(name="pr315").edit(Rope, but(dims=16)).edit(Block, but(norm=part(DepthScaledNorm)))
    return late(recipe, below=0.1, warmdown=3000, steps=7051)


def late(recipe: Spec[Recipe], *, below: float, warmdown: int, steps: int) -> Spec[Recipe]:
    """Fake int6 in every matrix of the blocks from where a warm-down of so many of the run's steps falls under `below`."""
    trained = floored(clip=part(MaxClip), full_range=True)  # another clip than the codec's, as published
    fake = part(FakeQuant, codec=trained, since=round(1 - below * warmdown / steps, 3))
    return recipe.edit("model.block.**.linear", append(view=fake))
