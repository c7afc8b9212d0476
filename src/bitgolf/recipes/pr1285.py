"""pr1218 with rows normalized before orthogonalization, and layers 4 and 5 run twice from mid-training.

Source: openai/parameter-golf, pull request 1285.
"""

from __future__ import annotations

from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.layer_schedule import GatedSkip, UNet
from bitgolf.optim.muon import Muon
from bitgolf.optim.muon_transforms import RowNorm
from bitgolf.recipes.pr1218 import pr1218
from bitgolf.recipes.recipe import Recipe


def pr1285() -> Spec[Recipe]:
    recipe = pr1218().replace(name="pr1285").edit(Muon, replace(weight_decay=0.09, pre_orthogonalize=(part(RowNorm),)))
    recipe = recipe.set("train.optim.1.use.weight_decay", 0.09)
    # The script starts the loop at step 3,000, half of its time, and has five rows of skip weights for the six skips.
    return recipe.edit(
        UNet,
        replace(
            order=part(LoopedLayers, first_layer=4, last_layer=5, since=(0.5,)), skip=part(GatedSkip, num_weights=5)
        ),
    )
