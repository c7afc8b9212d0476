"""Layers 3 to 5 three times from a third of the run on, and both branches of a block side by side from layer 7.

Source: openai/parameter-golf, pull request 1493.
"""

from __future__ import annotations

from bitgolf.average.ema import Ema
from bitgolf.config.edits import but
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import QGain
from bitgolf.model.layer_orders import Loop
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.residual_topology import Parallel
from bitgolf.optim.muon import Muon
from bitgolf.recipes._common import by_chunks
from bitgolf.recipes.pr1394 import pr1394
from bitgolf.recipes.recipe import Recipe


def pr1493() -> Spec[Recipe]:
    recipe = pr1394().but(name="pr1493", average=part(Ema, decay=0.9965))
    recipe = recipe.edit(
        UNet, but(order=part(Loop, first=3, last=5, since=(0.35, 0.35)), wiring=part(Parallel, layers="7-10"))
    )
    recipe = recipe.edit(QGain, but(init=5.25)).edit(Muon, but(lr=0.022, weight_decay=0.095))
    recipe = recipe.set("train.schedule.fraction", 0.72)
    return recipe.but(
        score=(*recipe["score"], by_chunks(lr=0.005)),
    )
