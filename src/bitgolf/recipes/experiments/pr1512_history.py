"""What led from #1019 to #1512: attention windows, longer rows, and what did not help.

Source: openai/parameter-golf, pull request 1512, file swa_experiment.md. One seed (1337), except for the longer rows. The
sizes of the files are not reported.
"""

from __future__ import annotations

from bitgolf.config.edits import append, replace
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import QGain
from bitgolf.model.attention.cores.sdpa import SDPACore, SlidingWindowMask
from bitgolf.model.objectives import MultiTokenPrediction
from bitgolf.model.part import only
from bitgolf.optim.frozen import Frozen
from bitgolf.optim.muon import Muon
from bitgolf.recipes.pr1019 import pr1019
from bitgolf.recipes.pr1512 import pr1512
from bitgolf.recipes.recipe import Recipe


def _with_window(layers: str, left: int) -> Spec[Recipe]:
    return pr1019().edit(SDPACore, append(masks=only(layers, part(SlidingWindowMask, left=left))))


def pr1512_window_512() -> Spec[Recipe]:
    """pr1019 with window attention (512 keys) on eight of eleven layers."""
    return _with_window("0-7", 512)


def pr1512_window_256() -> Spec[Recipe]:
    """pr1019 with window attention (256 keys) on six of eleven layers."""
    return _with_window("0-5", 256)


def pr1512_length_4096() -> Spec[Recipe]:
    """pr1512_window_256 with rows of 4,096 tokens: pr1512 without key offset and with its former query gain."""
    recipe = pr1512().edit(QGain, replace(init=1.5))
    norm, rope, _, gain = recipe["model.block.mixer.qk"]
    return recipe.set("model.block.mixer.qk", (norm, rope, gain))


def pr1512_multi_token() -> Spec[Recipe]:
    """pr1512_window_256 with two heads for further tokens, weight 0.2, which no optimizer updated."""
    recipe = pr1512_window_256().set(
        "train.objective", part(MultiTokenPrediction, heads=2, weight=0.2, mask_starts=False)
    )
    return recipe.set("train.optim", (part(Rule, where="head", use=part(Frozen)), *recipe["train.optim"]))


def pr1512_cautious_decay() -> Spec[Recipe]:
    """pr1512_window_256 with a weight decay of those weights only that the update does not move away from zero."""
    return pr1512_window_256().edit(Muon, replace(cautious_weight_decay=True))
