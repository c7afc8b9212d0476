"""Documents packed end to end with attention inside each alone, two lanes from layer 8 on, slower momentum.

Source: openai/parameter-golf, pull request 1530. The fused up-projection is a kernel, which a run chooses by itself; sharded Muon likewise.
"""

from __future__ import annotations

from bitgolf.config.edits import append, but
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import Packed
from bitgolf.model.attention.attention import QGain
from bitgolf.model.attention.cores.sdpa import Sdpa, Segments
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.residual_topology import TwoLanes
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import Ramp
from bitgolf.recipes._common import (
    BANKS,
    by_document,
    on_training_text,
)
from bitgolf.recipes.pr1493 import pr1493
from bitgolf.recipes.recipe import Recipe


def pr1530() -> Spec[Recipe]:
    recipe = pr1493().but(name="pr1530").edit(Sdpa, append(masks=part(Segments, cap=2048)))
    recipe = recipe.edit(UNet, but(wiring=part(TwoLanes, start=8))).edit(QGain, but(init=5.0))
    recipe = recipe.edit(Muon, but(momentum=part(Ramp, start=0.92, end=0.97, steps=1500), **BANKS))
    recipe = recipe.edit("train", but(rows=8, length=98_304, micro_rows=1, order=part(Packed)))
    return recipe.but(
        calibrate=on_training_text(64),
        score=(recipe["score.0"], by_document(stride=32)),
    )
