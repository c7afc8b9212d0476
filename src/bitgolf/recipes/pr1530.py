"""Documents packed end to end with attention inside each alone, two lanes from layer 8 on, slower momentum.

Source: openai/parameter-golf, pull request 1530. The fused up-projection is a kernel, which a run chooses by itself; sharded Muon likewise.
"""

from __future__ import annotations

from bitgolf.config.edits import append, but
from bitgolf.config.recipe import Recipe
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import Packed
from bitgolf.model.attention.attention import QGain
from bitgolf.model.attention.cores.sdpa import Sdpa, Segments
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.residual_topology import TwoLanes
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import Ramp
from bitgolf.recipes._published import (
    BANKS,
    CHARGED,
    CLIPPED,
    LOOKED_UP,
    WITHIN,
    by_document,
    on_training_text,
    reserved,
    results,
)
from bitgolf.recipes.pr1493 import pr1493


def pr1530() -> Spec[Recipe]:
    recipe = pr1493().but(name="pr1530").edit(Sdpa, append(masks=part(Segments, cap=2048)))
    recipe = recipe.edit(UNet, but(wiring=part(TwoLanes, start=8))).edit(QGain, but(init=5.0))
    recipe = recipe.edit(Muon, but(momentum=part(Ramp, start=0.92, end=0.97, steps=1500), **BANKS))
    recipe = recipe.edit("train", but(rows=8, length=98_304, micro_rows=1, order=part(Packed)))
    return recipe.but(
        calibrate=on_training_text(64),
        score=(recipe["score.0"], by_document(stride=32)),
        published=results(
            1530,
            params=35_944_602,
            bpb={"averaged": 1.07248, "packed": 1.08412, "adapted": 1.07336},
            bytes=15_996_664,
            code=27_310,
            steps=4853,
            seeds={
                0: {"averaged": 1.07184, "packed": 1.08325, "adapted": 1.07258},
                1: {"averaged": 1.07235, "packed": 1.08414, "adapted": 1.07325},
                2: {"averaged": 1.07324, "packed": 1.08496, "adapted": 1.07426},
            },
            departures=CLIPPED | LOOKED_UP | WITHIN | CHARGED | reserved(13),
        ),
    )
