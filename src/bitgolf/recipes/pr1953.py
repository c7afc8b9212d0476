"""pr1945 scored with windows of 2,560 tokens, without adapters on queries and values, at three quarters of their rate.

Source: openai/parameter-golf, pull request 1953. Segments of training keep 2,048 tokens.
"""

from __future__ import annotations

from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec
from bitgolf.model.attention.attention import QGain
from bitgolf.recipes._common import long_windows
from bitgolf.recipes.pr1945 import pr1945
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.adapt.document_lora import DocumentLoRA


def pr1953() -> Spec[Recipe]:
    recipe = pr1945().replace(name="pr1953").edit(QGain, replace(init=5.25))
    recipe = long_windows(recipe, 2560, trained=((2048, 1.0),))
    return recipe.edit(DocumentLoRA, replace(target_modules=("head", "k", "mixer", "mlp"), lr=7.5e-5))
