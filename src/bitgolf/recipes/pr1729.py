"""pr1626 with capitals encoded as operators (CaseOps), and a weight decay that tapers off.

Source: openai/parameter-golf, pull request 1729.
"""

from __future__ import annotations

from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import PiecewiseLinear
from bitgolf.recipes.pr1626 import pr1626
from bitgolf.recipes.recipe import Recipe
from bitgolf.tokens.trainers import CaseOpsBPE


def pr1729() -> Spec[Recipe]:
    recipe = pr1626().replace(name="pr1729", tokens=part(CaseOpsBPE, vocab=8192))
    return recipe.edit(Muon, replace(weight_decay_schedule=part(PiecewiseLinear, points=((0.7, 1.0), (1.0, 0.5)))))
