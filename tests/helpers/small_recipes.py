"""Any recipe at a size that trains in seconds: the same parts in the same places, with small numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bitgolf.average.lawa import Lawa
from bitgolf.average.swa import Swa
from bitgolf.config.edits import but
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import Packed
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.cores.sdpa import Segments, Window
from bitgolf.model.attention.key_offset import KeyOffset
from bitgolf.model.attention.rope import Rope
from bitgolf.model.attention.rope_scaling import Ntk, Yarn
from bitgolf.model.attention.values import ValueTable
from bitgolf.model.factored_embedding import FactoredEmbedding
from bitgolf.model.mlp import MLP, SwiGLU
from bitgolf.model.ngram_embedding import HashedBigrams
from bitgolf.model.qat_lowbit import Binary, Ternary
from bitgolf.optim.schedules import Ramp, WarmdownSteps
from bitgolf.quantize.calibration.sources import OwnSamples, TrainingText
from bitgolf.quantize.codecs.lowbit import BinaryGroups, TernaryGroups
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.adapt.document_lora import DocumentLora
from bitgolf.score.adapt.gradient import Sgd
from bitgolf.score.adapt.phased_lora import Phased
from bitgolf.score.adapt.stream_sgd import StreamSgd
from bitgolf.score.methods import Contiguous, Sliding

VOCAB, LENGTH, DIM = 295, 32, 32

SMALL: dict[type, dict[str, Any]] = {
    Attention: {"heads": 4, "kv_heads": 2},
    MLP: {"hidden": 48},
    SwiGLU: {"hidden": 40},
    HashedBigrams: {"rows": 64, "width": 8},
    ValueTable: {"width": 8, "out": 16},
    FactoredEmbedding: {"width": 12},
    Window: {"width": 8},
    Segments: {"cap": 16},
    KeyOffset: {"dims": 4},
    Ntk: {"reference": 16, "length": LENGTH},
    Yarn: {"reference": 16, "length": LENGTH},
    Ternary: {"group": 16},
    Binary: {"group": 16},
    TernaryGroups: {"group": 16},
    BinaryGroups: {"group": 16},
    WarmdownSteps: {"steps": 10},
    Ramp: {"steps": 10},
    Swa: {"every": 2},
    Lawa: {"every": 2},
    TrainingText: {"batches": 4, "rows": 2, "length": LENGTH},
    OwnSamples: {"sequences": 4, "length": LENGTH, "rows": 2},
    DocumentLora: {"window": LENGTH, "stride": 16, "rank": 2, "rows": 2},
    Phased: {"boundaries": (1,), "chunk": 64},
    StreamSgd: {"window": LENGTH, "stride": 16, "chunk": 64},
    Sgd: {"length": 16, "batch": 2},
}


def smaller(small: dict[str, Any]) -> Callable[[Spec[Any]], Spec[Any]]:
    return lambda node: node.but(**small)


def shrunk(recipe: Spec[Recipe], *, steps: int = 30) -> Spec[Recipe]:
    recipe = recipe.set("model.dim", DIM).set("tokens.vocab", VOCAB)
    for cls, small in SMALL.items():
        if any(node.cls is cls and node.but(**small) != node for _, node in recipe.walk()):
            recipe = recipe.edit(cls, smaller(small))
    if any(node.kwargs["dims"] for _, node in recipe.walk() if node.cls is Rope):
        recipe = recipe.edit(Rope, but(dims=4))
    packed = recipe["train.order"].cls is Packed
    rows, length = (2, 2 * LENGTH) if packed else (4, LENGTH)
    limits = recipe["train"].but(seconds=0.0, steps=steps, rows=rows, length=length, micro_rows=0)
    recipe = recipe.set("train", limits)
    adapting = [method for method in recipe["score"] if method.cls not in (Contiguous, Sliding)]
    return recipe.set("score", (part(Contiguous, window=LENGTH), part(Sliding, window=LENGTH, stride=16), *adapting))
