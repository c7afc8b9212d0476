"""Text with its capitals written as operators, and a weight decay that tapers off.

Source: openai/parameter-golf, pull request 1729.
"""

from __future__ import annotations

from bitgolf.config.edits import but
from bitgolf.config.recipe import Recipe
from bitgolf.config.spec import Spec, part
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import PiecewiseLinear
from bitgolf.recipes._published import CHARGED, CLIPPED, LOOKED_UP, WITHIN, reserved, results
from bitgolf.recipes.pr1626 import pr1626
from bitgolf.tokens.trainers import CaseOps


def pr1729() -> Spec[Recipe]:
    recipe = pr1626().but(name="pr1729", tokens=part(CaseOps, vocab=8192))
    recipe = recipe.edit(Muon, but(decay=part(PiecewiseLinear, points=((0.7, 1.0), (1.0, 0.5)))))
    return recipe.but(
        published=results(
            1729,
            params=35_944_602,
            bpb={"averaged": 1.07023, "packed": 1.08120, "adapted": 1.06780},
            bytes=15_943_106,
            code=30_985,
            steps=4886,
            seeds={
                0: {"averaged": 1.07033, "packed": 1.08152, "adapted": 1.06806},
                42: {"averaged": 1.07066, "packed": 1.08171, "adapted": 1.06807},
                1234: {"averaged": 1.06972, "packed": 1.08037, "adapted": 1.06728},
            },
            departures=CLIPPED | LOOKED_UP | WITHIN | CHARGED | reserved(4),
        )
    )
