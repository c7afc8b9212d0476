"""`--quick`: the edits that make any recipe a toy that trains, packs and scores in seconds on a CPU.

The techniques of the recipe stay, so that a quick run shows whether they work together. Its figures say nothing about
the recipe at its own size; the name of a quick recipe ends in `-quick`, which results, folders and logs show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bitgolf.average.ema import EMA
from bitgolf.average.lawa import LAWA
from bitgolf.average.swa import SWA
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.optim.muon_transforms import RowBlockSplit
from bitgolf.optim.schedules import LinearRamp, WarmdownSteps
from bitgolf.quantize.calibration.sources import SelfGenerated, TrainingText
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.tuning import FloatTuning
from bitgolf.recipes.check import check_recipe
from bitgolf.recipes.identity import QUICK_SUFFIX
from bitgolf.report.display import current_display
from bitgolf.text.documents import TextSample
from bitgolf.training.validation import Validation

if TYPE_CHECKING:
    from bitgolf.recipes.recipe import Recipe

QUICK_SECONDS = 4.0
"""Training clock, calibration included."""
QUICK_TEXT_BYTES = 2_000_000
QUICK_VOCAB, QUICK_ROWS, QUICK_LENGTH, QUICK_DIM = 1024, 8, 128, 128

WIDTHS = frozenset({"dim", "hidden", "width", "value_dim", "dims", "unshifted_dims", "group_size"})
"""Settings that are divided by the same power of two as the width of the model."""

AT_MOST: dict[type, dict[str, Any]] = {
    EMA: {"decay": 0.9},
    SWA: {"every": 5},
    LAWA: {"every": 5},
    WarmdownSteps: {"steps": 20},
    LinearRamp: {"steps": 20},
    RowBlockSplit: {"rows": QUICK_DIM // 4},
    TrainingText: {"batches": 2, "rows": 4, "length": QUICK_LENGTH},
    SelfGenerated: {"sequences": 8, "length": QUICK_LENGTH // 2},
    TrellisCodec: {"states": 64},
    Validation: {"tokens": 4_000, "every_steps": 10, "every_seconds": 1.0},
    FloatTuning: {"steps": 5, "rows": 4, "length": QUICK_LENGTH, "reserve": 0.5},
}
"""Class of a part -> the largest values of settings that assume a long training."""


def quick(recipe: Spec[Recipe]) -> Spec[Recipe]:
    """The recipe as a toy: a short clock, the start of the text, small batches and widths, one score, no round trip.

    The widths of the model are divided by the power of two that brings `model.dim` to 128 or just above. If it cannot be
    built then, the widths stay, with a note. Raises `RecipeError` if the recipe cannot be built at all.
    """
    smaller = _with_short_stages(recipe)
    factor = 1
    while smaller["model.dim"] // (2 * factor) >= QUICK_DIM:
        factor *= 2
    narrow = _with_divided_widths(smaller, factor)
    try:
        check_recipe(narrow)
    except RecipeError as error:
        check_recipe(smaller)
        current_display().message(f"note: --quick keeps the widths of the model, since {error.message}")
        return smaller
    return narrow


def _with_short_stages(recipe: Spec[Recipe]) -> Spec[Recipe]:
    train, first = recipe["train"], recipe["score.0"]
    tokens = _limited(recipe["tokens"], {"vocab": QUICK_VOCAB, "sample_bytes": QUICK_TEXT_BYTES})
    seconds = min(train["seconds"] or QUICK_SECONDS, QUICK_SECONDS)
    shortened = recipe.replace(
        name=f"{recipe['name']}{QUICK_SUFFIX}",
        text=part(TextSample, text=recipe["text"], bytes=QUICK_TEXT_BYTES),
        tokens=tokens if "sample_bytes" in tokens.kwargs else recipe["tokens"],
        train=_limited(train, {"rows": QUICK_ROWS, "length": QUICK_LENGTH}).replace(seconds=seconds, micro_rows=0),
        score=(_limited(first, {"window": QUICK_LENGTH, "stride": QUICK_LENGTH // 2}),),
        proof=None,
        published=None,
    )
    if recipe["calibrate"] is not None:  # a reserve measured on a busy machine could take up the whole clock
        shortened = shortened.set("calibrate.reserve", 0.0)
    for cls, most in AT_MOST.items():
        if any(node.cls is cls and _limited(node, most) != node for _, node in shortened.walk()):
            shortened = shortened.edit(cls, lambda node, most=most: _limited(node, most))
    return shortened


def _limited(node: Spec[Any], most: dict[str, Any]) -> Spec[Any]:
    """A part with its numbers limited to these largest values; 0 stays, which stands for a value of another setting."""
    return node.replace(**{name: min(node[name], top) for name, top in most.items() if node.kwargs.get(name)})


def _with_divided_widths(recipe: Spec[Recipe], factor: int) -> Spec[Recipe]:
    for path, node in recipe.walk():
        for name in WIDTHS & node.kwargs.keys():
            width = node.kwargs[name]
            if isinstance(width, int) and width > 2:
                recipe = recipe.set(f"{path}.{name}" if path else name, max(2, width // factor // 2 * 2))
    return recipe
