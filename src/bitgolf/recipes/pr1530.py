"""pr1493 with packed documents, attention within each document, two lanes from layer 8 on, and momentum up to 0.97.

Source: openai/parameter-golf, pull request 1530. Its fused up-projection and its sharded Muon are no settings here: a
run selects both by itself.
"""

from __future__ import annotations

from bitgolf.config.edits import append, replace
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import PackedDocuments
from bitgolf.model.attention.attention import QGain
from bitgolf.model.attention.cores.sdpa import SDPACore, SegmentMask
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.residual_topology import ParallelTwoLaneResidual
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import LinearRamp
from bitgolf.recipes._common import (
    BFLOAT16_MUON,
    calibrate_on_training_text,
    document_lora,
)
from bitgolf.recipes.pr1493 import pr1493
from bitgolf.recipes.recipe import Recipe


def pr1530() -> Spec[Recipe]:
    recipe = pr1493().replace(name="pr1530").edit(SDPACore, append(masks=part(SegmentMask, max_length=2048)))
    recipe = recipe.edit(UNet, replace(residual=part(ParallelTwoLaneResidual, start_layer=8))).edit(
        QGain, replace(init=5.0)
    )
    recipe = recipe.edit(Muon, replace(momentum=part(LinearRamp, start=0.92, end=0.97, steps=1500), **BFLOAT16_MUON))
    recipe = recipe.edit("train", replace(rows=8, length=98_304, micro_rows=1, order=part(PackedDocuments)))
    return recipe.replace(
        calibrate=calibrate_on_training_text(64),
        score=(recipe["score.0"], document_lora(stride=32)),
    )
