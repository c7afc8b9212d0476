"""The experiments of the branch of pull request 1512 on #1493, each as a sweep against the same recipe.

Source: openai/parameter-golf, pull request 1512; the variants are those of `recipes.experiments.pr1493_variants`, which has
the results that were published, of one seed each.
"""

from __future__ import annotations

from bitgolf.config.spec import Spec, part
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.recipes import get_recipe
from bitgolf.recipes.experiments.pr1493_variants import shared_hessians
from bitgolf.recipes.recipe import Recipe
from bitgolf.sweeps.factors import Factor, FactorLevel
from bitgolf.sweeps.gates import LossNotFinite, OverCap
from bitgolf.sweeps.search.search import Grid, OneAtATime
from bitgolf.sweeps.sweep import Sweep

BASE = "pr1493_longer_adaptation"
SEEDS = (42, 314, 1337)
GATES = (part(LossNotFinite), part(OverCap))


def _experiments(name: str, **variants: str) -> Spec[Sweep]:
    """A sweep over experiments: words with underscores -> the name of the recipe."""
    levels = tuple(
        part(FactorLevel, name=words.replace("_", " "), recipe=get_recipe(recipe)) for words, recipe in variants.items()
    )
    factors = (part(Factor, name="experiment", levels=levels),)
    return part(Sweep, name=name, recipe=get_recipe(BASE), factors=factors, seeds=SEEDS, gates=GATES)


def weight_decay_schedules() -> Spec[Sweep]:
    """pr1493: a weight decay that falls and rises during training, in two strengths."""
    return _experiments("weight_decay_schedules", schedule="pr1493_decay", strong_schedule="pr1493_strong_decay")


def paired_heads() -> Spec[Sweep]:
    """pr1493: queries and keys orthogonalized in pairs of heads, alone and with weight-decay schedules."""
    return _experiments(
        "paired_heads",
        paired_heads="pr1493_paired_heads",
        paired_heads_and_schedule="pr1493_decay_paired_heads",
        paired_heads_and_strong_schedule="pr1493_strong_decay_paired_heads",
    )


def head_mixing() -> Spec[Sweep]:
    """pr1493: learned mixtures of the heads of queries and keys, alone and with paired heads and a decay schedule."""
    return _experiments(
        "head_mixing",
        head_mixing="pr1493_head_mixing",
        head_mixing_and_paired_heads="pr1493_decay_paired_heads_head_mixing",
    )


def multi_token_prediction() -> Spec[Sweep]:
    """pr1493: the same logits compared with the token after the next one."""
    return _experiments("multi_token_prediction", multi_token="pr1493_multi_token")


def document_order() -> Spec[Sweep]:
    """pr1493: documents in random order instead of random windows."""
    return _experiments("document_order", shuffled_documents="pr1493_document_shuffle")


def scoring_loops() -> Spec[Sweep]:
    """pr1493: three instead of two additional passes of the loop while scoring."""
    return _experiments("scoring_loops", three_passes="pr1493_evaluation_loops")


def gptq_calibration() -> Spec[Sweep]:
    """pr1493: damping and block of GPTQ, and the calibration text of one or of eight processes, on the same weights.

    The reserve for calibration is fixed, so that all variants share one training.
    """
    recipe = _with_fixed_reserve(get_recipe(BASE))
    factors = (
        _gptq_factor(recipe, "damping", (0.005, 0.02, 0.05)),
        _gptq_factor(recipe, "block", (64, 256)),
        _calibration_factor(recipe),
    )
    search = part(OneAtATime)
    return part(Sweep, name="gptq_calibration", recipe=recipe, factors=factors, seeds=(42,), search=search)


def gptq_calibration_grid() -> Spec[Sweep]:
    """gptq_calibration with all combinations."""
    return gptq_calibration().replace(name="gptq_calibration_grid", search=part(Grid))


def _with_fixed_reserve(recipe: Spec[Recipe]) -> Spec[Recipe]:
    return recipe.set("calibrate.reserve", 12.0)


def _gptq_factor(recipe: Spec[Recipe], setting: str, values: tuple[float, ...]) -> Spec[Factor]:
    """A setting of all GPTQ solvers of a recipe."""
    paths = [path for path, node in recipe.walk() if node.cls is GPTQ]
    levels = tuple(
        part(FactorLevel, name=f"{setting} {value:g}", edits=tuple(f"{path}.{setting}={value:g}" for path in paths))
        for value in values
    )
    return part(Factor, name=setting, levels=levels)


def _calibration_factor(recipe: Spec[Recipe]) -> Spec[Factor]:
    """Batches of text for the Hessians: of all eight processes instead of one, with as many and with a quarter of them."""
    shared = {batches: _with_fixed_reserve(shared_hessians(recipe, batches)) for batches in (16, 64)}
    levels = tuple(
        part(FactorLevel, name=f"Hessians of 8 x {batches} batches", recipe=chosen)
        for batches, chosen in shared.items()
    )
    return part(Factor, name="calibration", levels=levels)
