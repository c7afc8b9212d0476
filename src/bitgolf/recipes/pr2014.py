"""pr1953 trained on segments of 1,024, 2,048, then 3,072 tokens, scored with 3,072, with more steps on short documents.

Source: openai/parameter-golf, pull request 2014. After each change of the segments the learning rate rises again over
32 steps. One phase of SGD instead of three, and 24 documents side by side instead of 64.
"""

from __future__ import annotations

from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.optim.schedules import Rewarmup
from bitgolf.recipes._common import calibrate_on_training_text, long_windows
from bitgolf.recipes.pr1953 import pr1953
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.adapt.document_lora import DocumentLoRA

STAGES = ((1024, 0.1), (2048, 0.7))


def pr2014() -> Spec[Recipe]:
    recipe = long_windows(pr1953().replace(name="pr2014"), 3072, trained=STAGES)
    changes = tuple(end for _, end in STAGES)
    rewarmed = part(Rewarmup, after=changes, steps=32, then=recipe["train.lr_schedule"])
    recipe = recipe.set("train.lr_schedule", rewarmed).set("score.1.boundaries", (2500,))
    recipe = recipe.replace(calibrate=calibrate_on_training_text(16, length=3072))
    return recipe.edit(DocumentLoRA, replace(rows=24, short_documents=((256, 8), (2000, 24))))
