"""Scaling of a recipe to a smaller byte cap and clock, so that published systems can be compared on a small machine.

Rules, with r = cap / cap of the recipe:

- Layers: their number times r^(1/3), at least 3. Layers that settings name (loops, lanes, parallel layers) keep their
  relative position.
- Width: the largest multiple of 16 with which the forecast of the artifact is within the cap. All other widths of the
  model keep their ratio to it, heads are at least 32 wide where they can be, and the ratio of query to key/value heads
  stays. The number of rows of a hashed table is a power of two, with which its share of the weights hardly changes.
- Batch: as given; windows of training, attention, calibration and scoring have at most the length of a row.
- Schedules and averages in steps keep their fraction of the run: they are multiplied by the given number of steps over
  the published one.
- Scoring: strides are at least a quarter of the window, also in short documents.
- Adapters: ranks are scaled like the width. At most as many documents as a batch has rows are adapted side by side.
  Phases begin at the same fraction of the documents, and train on chunks of one batch.

Learning rates, weight decays, clips, bits and everything else stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from bitgolf.average.ema import EMA
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.cores.scheduled_segments import ScheduledSegmentMask
from bitgolf.model.attention.cores.sdpa import SegmentMask
from bitgolf.model.lm import LM
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.part import parse_layers
from bitgolf.optim.schedules import LinearRamp, WarmdownSteps
from bitgolf.quantize.calibration.sources import SelfGenerated, TrainingText
from bitgolf.quantize.tuning import FloatTuning
from bitgolf.recipes.check import check_recipe
from bitgolf.recipes.quick import WIDTHS
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.phased_lora import PhasedLoRA, even_boundaries
from bitgolf.tokens.trainers import SentencePieceBPE

if TYPE_CHECKING:
    from bitgolf.recipes.recipe import Recipe

FEWEST_LAYERS, WIDTH_STEP, HEAD_WIDTH, WIDEST = 3, 16, 32, 2048
PUBLISHED_DOCUMENTS = 50_000
"""Documents of the challenge's validation text, on which phases of adaptation are placed."""
KEPT_WIDTHS = frozenset({"dims", "unshifted_dims"})
"""Widths within a head, which are limited by it rather than scaled."""
LAYER_SETTINGS = frozenset({"first_layer", "last_layer", "start_layer"})


class Scale(NamedTuple):
    """The size to which a recipe is scaled.

    cap: bytes of the artifact without code.  vocab: pieces of the tokenizer.  seconds: training clock.  steps: expected number of
    steps within it.  full_steps: steps of the recipe at full size; 0 takes the published number.  rows, length: of a batch.  documents: number of documents that are scored.
    """

    cap: int
    vocab: int
    seconds: float
    steps: int
    rows: int = 8
    length: int = 256
    documents: int = 100
    full_steps: int = 0


ForecastBytes = Callable[[Any], int]
"""Recipe -> forecast of the bytes of its artifact, without its tokenizer."""


def scale_recipe(recipe: Spec[Recipe], scale: Scale, forecast: ForecastBytes) -> Spec[Recipe]:
    """The recipe at another scale, by the rules of this module. Raises `RecipeError` if no width fits the cap.

    forecast: called with recipes of several widths.
    """
    small = _with_depth(_with_batch(recipe, scale), scale.cap / recipe["pack.cap"])

    def sized(steps: int) -> Spec[Recipe]:
        return _with_width(small, steps * WIDTH_STEP, scale.cap / recipe["pack.cap"])

    low, high = 1, WIDEST // WIDTH_STEP
    if forecast(sized(low)) > scale.cap:
        message = f"no width fits a cap of {scale.cap:,} bytes: the forecast for width {WIDTH_STEP} is above it"
        raise RecipeError(message, where="pack.cap", hint="use a larger cap, or a smaller vocabulary")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if forecast(sized(middle)) > scale.cap else (middle, high)
    check_recipe(sized(low))
    return sized(low)


def _with_batch(recipe: Spec[Recipe], scale: Scale) -> Spec[Recipe]:
    """Clock, batch, tokenizer, windows, schedules and cap; the model has its published size."""
    published = scale.full_steps or (recipe["published"] or {}).get("steps", recipe["train.steps"])
    faster = scale.steps / published
    train = recipe["train"].replace(
        seconds=scale.seconds, steps=0, rows=scale.rows, length=scale.length, micro_rows=0, checkpoint_seconds=30.0
    )
    small = recipe.replace(
        tokens=part(SentencePieceBPE, vocab=scale.vocab),
        train=train,
        pack=recipe["pack"].replace(cap=scale.cap, counted="model"),
        proof=None,
        published=None,
    )
    edits: dict[type, Callable[[Spec[Any]], Spec[Any]]] = {
        LinearRamp: lambda node: node.replace(steps=max(1, round(node["steps"] * faster))),
        WarmdownSteps: lambda node: node.replace(steps=max(1, round(node["steps"] * faster))),
        EMA: lambda node: node.replace(decay=node["decay"] ** (1 / faster)),
        SegmentMask: lambda node: node.replace(max_length=scale.length),
        ScheduledSegmentMask: lambda node: _with_short_segments(node, scale.length),
        TrainingText: lambda node: node.replace(batches=8, rows=8, length=scale.length),
        SelfGenerated: lambda node: node.replace(length=scale.length),
        DocumentLoRA: lambda node: node.replace(rows=min(node["rows"], scale.rows), short_documents=()),
        PhasedLoRA: lambda node: _with_phases(node, scale),
        FloatTuning: lambda node: node.replace(reserve=node["reserve"] * scale.seconds / recipe["train.seconds"]),
    }
    for cls, edit in edits.items():
        small = _edit_all(small, cls, edit)
    return small.replace(score=tuple(_with_window(method, scale.length) for method in small["score"]))


def _edit_all(recipe: Spec[Any], cls: type, edit: Callable[[Spec[Any]], Spec[Any]]) -> Spec[Any]:
    for path, node in recipe.walk():
        if node.cls is cls:
            recipe = recipe.set(path, edit(node))
    return recipe


def _with_short_segments(node: Spec[ScheduledSegmentMask], length: int) -> Spec[ScheduledSegmentMask]:
    stages = tuple((min(longest, length), end) for longest, end in node["stages"])
    return node.replace(max_length=length, stages=stages)


def _with_window(node: Any, length: int) -> Any:
    """A scoring method, and those within it, with windows of `length` tokens and strides of at least a quarter."""
    if not isinstance(node, Spec):
        return node
    node = node.replace(**{key: _with_window(value, length) for key, value in node.kwargs.items()})
    if "sequence_length" in node.kwargs:
        node = node.replace(sequence_length=min(node["sequence_length"], length))
    if "window" not in node.kwargs:
        return node
    wide = node["window"]
    if "stride" in node.kwargs:
        node = node.replace(stride=max(length // 4, node["stride"] * length // wide))
    return node.replace(window=length)


def _with_phases(node: Spec[PhasedLoRA], scale: Scale) -> Spec[PhasedLoRA]:
    """The same number of phases over the same share of the documents, at least one document each."""
    phases = len(node["boundaries"])
    documents = max(phases, node["boundaries"][-1] * scale.documents // PUBLISHED_DOCUMENTS)
    return node.replace(
        boundaries=even_boundaries(documents, phases), batches_in_flight=None, chunk=scale.rows * scale.length
    )


def _with_depth(recipe: Spec[Recipe], ratio: float) -> Spec[Recipe]:
    """Fewer layers, with the layers that settings name at the same relative positions."""
    before = recipe["model.layers"]
    after = max(FEWEST_LAYERS, round(before * ratio ** (1 / 3)))

    def moved(layer: int) -> int:
        return round(layer * (after - 1) / max(before - 1, 1))

    for path, node in recipe.walk():
        for name in LAYER_SETTINGS & node.kwargs.keys():
            recipe = recipe.set(f"{path}.{name}", moved(node[name]))
        listed = node.kwargs.get("layers")
        if isinstance(listed, str) and listed != "*":
            kept = sorted({moved(layer) for layer in parse_layers(listed, before)})
            recipe = recipe.set(f"{path}.layers", ",".join(map(str, kept)))
    return recipe.set("model.layers", after)


def _with_width(recipe: Spec[Recipe], width: int, cap_ratio: float) -> Spec[Recipe]:
    """Another width of the model, the others in proportion. cap_ratio: new cap over old one."""
    ratio, heads = width / recipe["model.dim"], 1
    for path, node in recipe.walk():
        changes: dict[str, Any] = {}
        heads = _heads(width, node) if node.cls is Attention else heads
        for name in WIDTHS & node.kwargs.keys():
            value = node[name]
            if isinstance(value, int) and value > 0:
                narrow = node.cls is not LM and value <= WIDTH_STEP  # such as the inputs of a gate
                scaled = value if name in KEPT_WIDTHS or narrow else value * ratio
                changes[name] = max(2, round(scaled / 2) * 2)
                if name in KEPT_WIDTHS:
                    changes[name] = min(changes[name], width // heads)
        if node.cls is Attention:
            changes |= {"heads": heads, "kv_heads": heads * node["kv_heads"] // node["heads"]}
        if node.cls is HashedNGramEmbedding:
            changes["buckets"] = 2 ** max(1, round(math.log2(node["buckets"] * cap_ratio / ratio)))
        if node.cls is DocumentLoRA:
            changes["rank"] = max(1, round(node["rank"] * ratio))
        if changes:
            recipe = recipe.set(path, node.replace(**changes)) if path else recipe.replace(**changes)
    return recipe


def _heads(width: int, attention: Spec[Attention]) -> int:
    """The most query heads of an even width of at least `HEAD_WIDTH`, in groups of as many as before."""
    group = attention["heads"] // attention["kv_heads"]
    fitting = (h for h in range(width // HEAD_WIDTH, 0, -1) if h % group == 0 and width % (2 * h) == 0)
    return next(fitting, group)
