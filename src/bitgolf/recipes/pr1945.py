"""pr1855 with 8 bits for one group of 64 columns, that with the largest inputs and weights of all matrices.

Source: openai/parameter-golf, pull requests 1908 and 1945 (commit 70067534, the run that is listed). Its two softcap
parameters are no technique: no optimizer has them, so they stay at 30, and the cap is that of pr1855.
"""

from __future__ import annotations

from bitgolf.config.spec import Spec
from bitgolf.recipes._common import FLOAT16_GATES, INT8_GATES, corrected_and_protected, sd_clip_rules
from bitgolf.recipes.pr1855 import CLIPS, pr1855
from bitgolf.recipes.recipe import Recipe


def pr1945() -> Spec[Recipe]:
    rules = sd_clip_rules(**CLIPS, gates=(*INT8_GATES, *FLOAT16_GATES), extend=corrected_and_protected)
    return pr1855().replace(name="pr1945", quantize=rules)
