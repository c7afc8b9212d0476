"""SmearGate by content again, now masked at document starts, and a low-rank repair of the worst matrices.

Source: openai/parameter-golf, pull request 1851.
"""

from __future__ import annotations

from bitgolf.config.spec import Spec, part
from bitgolf.model.residual import Normalize
from bitgolf.model.smear import ContentSmear
from bitgolf.recipes._common import (
    HALF_GATES,
    by_document,
    by_phases,
    deviations,
)
from bitgolf.recipes.pr1787 import pr1787
from bitgolf.recipes.recipe import Recipe


def pr1851() -> Spec[Recipe]:
    recipe = pr1787().but(name="pr1851").set("model.enter", (part(ContentSmear, width=12), part(Normalize)))
    return recipe.but(
        score=(recipe["score.0"], by_phases(by_document(alpha=144.0, warm=True, decay=1.0))),
        quantize=deviations(mlp=12.0, rest=13.0, embed=15.0, embed_bits=7, gates=HALF_GATES, repaired=True),
    )
