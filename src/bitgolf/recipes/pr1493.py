"""pr1394 with layers 3 to 5 run three times from 35 % of the run on, and parallel attention and MLP from layer 7 on.

Source: openai/parameter-golf, pull request 1493.
"""

from __future__ import annotations

from bitgolf.average.ema import EMA
from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import QGain
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.residual_topology import ParallelResidual
from bitgolf.optim.muon import Muon
from bitgolf.recipes._common import streaming_sgd
from bitgolf.recipes.pr1394 import pr1394
from bitgolf.recipes.recipe import Recipe


def pr1493() -> Spec[Recipe]:
    recipe = pr1394().replace(name="pr1493", average=part(EMA, decay=0.9965))
    recipe = recipe.edit(
        UNet,
        replace(
            order=part(LoopedLayers, first_layer=3, last_layer=5, since=(0.35, 0.35)),
            residual=part(ParallelResidual, layers="7-10"),
        ),
    )
    recipe = recipe.edit(QGain, replace(init=5.25)).edit(Muon, replace(lr=0.022, weight_decay=0.095))
    recipe = recipe.set("train.lr_schedule.fraction", 0.72)
    return recipe.replace(
        score=(*recipe["score"], streaming_sgd(lr=0.005)),
    )
