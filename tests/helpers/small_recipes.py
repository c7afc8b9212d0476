"""Any recipe at a size that trains in seconds: with the same parts, but small sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bitgolf.average.lawa import LAWA
from bitgolf.average.swa import SWA
from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import PackedDocuments
from bitgolf.model.attention.attention import Attention, FusedAttention
from bitgolf.model.attention.cores.scheduled_segments import ScheduledSegmentMask
from bitgolf.model.attention.cores.sdpa import SegmentMask, SlidingWindowMask
from bitgolf.model.attention.key_offset import KeyOffset
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.rope_scaling import NTKScaling, YaRNScaling
from bitgolf.model.attention.values import ValueEmbedding
from bitgolf.model.factored_embedding import FactoredEmbedding
from bitgolf.model.mlp import MLP, SwiGLU
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.qat_lowbit import FakeBinary, FakeTernary
from bitgolf.optim.muon_transforms import RowBlockSplit
from bitgolf.optim.schedules import LinearRamp, Rewarmup, WarmdownSteps
from bitgolf.quantize.calibration.sources import SelfGenerated, TrainingText
from bitgolf.quantize.codecs.lowbit import BinaryGroups, TernaryGroups
from bitgolf.quantize.codecs.protected_groups import ProtectedGroups
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.gradient import SGDAdaptation
from bitgolf.score.adapt.ngram_tilt import NGramTilt
from bitgolf.score.adapt.phased_lora import PhasedLoRA
from bitgolf.score.adapt.rank_slices import RankSlicedSGD
from bitgolf.score.adapt.stream_sgd import StreamSGD
from bitgolf.score.methods import ContiguousScoring, SlidingScoring

VOCAB, LENGTH, DIM = 295, 32, 32

SMALL: dict[type, dict[str, Any]] = {
    Attention: {"heads": 4, "kv_heads": 2},
    FusedAttention: {"heads": 4, "kv_heads": 2},
    MLP: {"hidden": 48},
    SwiGLU: {"hidden": 40},
    HashedNGramEmbedding: {"buckets": 64, "width": 8},
    ValueEmbedding: {"width": 8, "value_dim": 16},
    FactoredEmbedding: {"width": 12},
    SlidingWindowMask: {"left": 8},
    SegmentMask: {"max_length": 16},
    ScheduledSegmentMask: {"max_length": 24, "stages": ((8, 0.2), (16, 0.6))},
    Rewarmup: {"after": (0.2, 0.6), "steps": 3},
    ProtectedGroups: {"group_size": 16, "max_unprotected": 0},
    KeyOffset: {"unshifted_dims": 4},
    NTKScaling: {"original_length": 16, "length": LENGTH},
    YaRNScaling: {"original_length": 16, "length": LENGTH},
    FakeTernary: {"group_size": 16},
    FakeBinary: {"group_size": 16},
    TernaryGroups: {"group_size": 16},
    BinaryGroups: {"group_size": 16},
    WarmdownSteps: {"steps": 10},
    LinearRamp: {"steps": 10},
    RowBlockSplit: {"rows": 8},
    SWA: {"every": 2},
    LAWA: {"every": 2},
    TrainingText: {"batches": 4, "rows": 2, "length": LENGTH},
    SelfGenerated: {"sequences": 4, "length": 16, "rows": 4},
    DocumentLoRA: {"window": LENGTH, "stride": 16, "rank": 2, "rows": 2, "short_documents": ()},
    PhasedLoRA: {"boundaries": (1,), "batches_in_flight": 0, "chunk": 64},
    StreamSGD: {"window": LENGTH, "stride": 16, "chunk": 64},
    SGDAdaptation: {"sequence_length": 16, "batch_size": 2},
    RankSlicedSGD: {"sequence_length": 12, "ranks": 3},
    NGramTilt: {"length": 2},
}


def with_small_settings(small: dict[str, Any]) -> Callable[[Spec[Any]], Spec[Any]]:
    return lambda node: node.replace(**small)


def small_recipe(recipe: Spec[Recipe], *, steps: int = 30) -> Spec[Recipe]:
    whole = recipe
    recipe = recipe.set("model.dim", DIM).set("tokens.vocab", VOCAB)
    for cls, small in SMALL.items():
        if any(node.cls is cls and node.replace(**small) != node for _, node in recipe.walk()):
            recipe = recipe.edit(cls, with_small_settings(small))
    if any(node.kwargs.get("short_documents") for _, node in whole.walk()):
        recipe = recipe.edit(DocumentLoRA, replace(short_documents=((20, 4), (28, 8))))
    if any(node.kwargs["dims"] for _, node in recipe.walk() if node.cls is RoPE):
        recipe = recipe.edit(RoPE, replace(dims=4))
    packed = recipe().train().order.cls is PackedDocuments
    rows, length = (2, 2 * LENGTH) if packed else (4, LENGTH)
    limits = recipe().train.replace(seconds=0.0, steps=steps, rows=rows, length=length, micro_rows=0)
    recipe = recipe.set("train", limits)
    adapting = [method for method in recipe().score if method.cls not in (ContiguousScoring, SlidingScoring)]
    return recipe.set(
        "score", (part(ContiguousScoring, window=LENGTH), part(SlidingScoring, window=LENGTH, stride=16), *adapting)
    )
