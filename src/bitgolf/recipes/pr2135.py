"""pr1855 with a higher learning rate, windows of 2,560 tokens, one phase, and a larger logit for frequent continuations.

Source: openai/parameter-golf, pull requests 2130 and 2135, whose script is that of #1797. Its SmearGate is not masked at
document starts (its description says otherwise). The n-gram counts follow the order of scoring, a departure: as
published, they follow the corpus while documents are scored longest first, which no decoder can repeat.
"""

from __future__ import annotations

from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.model.smear import ContentSmear
from bitgolf.optim.muon import Muon
from bitgolf.recipes._common import (
    FLOAT16_GATES,
    calibrate_on_training_text,
    corrected,
    long_windows,
    sd_clip_rules,
)
from bitgolf.recipes.pr1855 import CLIPS, pr1855
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.ngram_tilt import NGramTilt


def pr2135() -> Spec[Recipe]:
    recipe = pr1855().replace(name="pr2135").edit(Muon, replace(lr=0.028)).set("pack.groups", ())
    recipe = long_windows(recipe.edit(ContentSmear, replace(mask_starts=False)), 2560, trained=((2048, 1.0),))
    recipe = recipe.set("score.1.boundaries", (2500,))
    adapters = ("head", "q", "v", "mixer", "mlp")
    recipe = recipe.edit(DocumentLoRA, replace(target_modules=adapters, lr=8e-5, weight_decay=2.0))
    tilted = part(NGramTilt, method=recipe["score.1"], length=15, threshold=0.8, boost=2.625)
    return recipe.replace(
        calibrate=calibrate_on_training_text(32),
        quantize=sd_clip_rules(**CLIPS, gates=FLOAT16_GATES, extend=lambda codec: corrected(codec, group_size=32)),
        score=(recipe["score.0"], tilted),
    )
