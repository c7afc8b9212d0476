"""A gate on the previous token's embedding and a narrow gate on each attention head.

Source: openai/parameter-golf, pull request 1667.
"""

from __future__ import annotations

from bitgolf.config.edits import append, but
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import Attention, QGain
from bitgolf.model.attention.gates import NarrowGate
from bitgolf.model.residual import Normalize
from bitgolf.model.smear import ContentSmear
from bitgolf.recipes._common import (
    HALF_GATES,
    by_document,
    deviations,
    on_training_text,
)
from bitgolf.recipes.pr1626 import pr1626
from bitgolf.recipes.recipe import Recipe


def pr1667() -> Spec[Recipe]:
    recipe = pr1626().but(name="pr1667").edit(QGain, but(init=5.25))
    recipe = recipe.set("model.enter", (part(ContentSmear, width=12), part(Normalize)))
    recipe = recipe.edit(Attention, append(after=part(NarrowGate, width=12)))
    return recipe.but(
        calibrate=on_training_text(64),
        score=(recipe["score.0"], by_document()),
        quantize=deviations(mlp=12.0, rest=13.0, embed=15.0, embed_bits=7, gates=HALF_GATES),
    )
