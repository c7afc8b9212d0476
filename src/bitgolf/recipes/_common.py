"""What the recipes of published systems share: parameter routing, quantization, calibration, adaptation.

All recipes train, calibrate, quantize, pack and score as published; differences are listed in each one's `departures`
in `published.json`. Three things are part of no recipe:

- The overhead of `torch.save` and the code (`code` of the published bytes): an artifact contains neither.
- Selective pruning of codes of 1 and -1 (#1019, #1512): the published runs had nothing to prune.
- lrzip (#1855): it is a program, and no artifact uses its format.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bitgolf.config.edits import replace
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip, QuantileClip, SdClip
from bitgolf.model.attention.cores.scheduled_segments import ScheduledSegmentMask
from bitgolf.model.attention.cores.sdpa import SDPACore
from bitgolf.optim.adam import Adam
from bitgolf.optim.algorithm import UpdateAlgorithm
from bitgolf.optim.muon import Muon
from bitgolf.quantize.calibration.calibrate import Calibrate
from bitgolf.quantize.calibration.sources import SelfGenerated, TrainingText
from bitgolf.quantize.codecs.codec import Codec, Float, IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.lqer_factors import AsymmetricFactors
from bitgolf.quantize.codecs.protected_groups import ProtectedGroups
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.gradient import SGDAdaptation
from bitgolf.score.adapt.phased_lora import PhasedLoRA, even_boundaries
from bitgolf.score.adapt.rank_slices import RankSlicedSGD
from bitgolf.score.adapt.stream_sgd import StreamSGD
from bitgolf.score.document_order import LongestFirstOrder

if TYPE_CHECKING:
    from bitgolf.recipes.recipe import Recipe

BFLOAT16_MUON: dict[str, Any] = {"reduce_dtype": "bfloat16", "momentum_dtype": "bfloat16"}
"""Settings of Muon in the scripts with parameter banks (#399, #549 to #1204 and #1512, #1530 to #1855): gradients are
reduced in bfloat16, and the momentum is stored in bfloat16."""


def optimizer_rules(
    matrix: Spec[Muon], embedding: Spec[Adam], scalar: Spec[Adam], *, input_projections: str = "matrix"
) -> tuple[Spec[Rule[UpdateAlgorithm]], ...]:
    """Rules of `train.optim`: matrices to Muon, embeddings to one Adam, all other parameters to another.

    input_projections: the optimizer of the projections of bigrams and value embeddings: "matrix", as in the scripts
    with one parameter per layer, or "scalar", as in those with parameter banks.
    """
    projections = (part(Rule, where="matrix@post_embed.**", use=scalar),) if input_projections == "scalar" else ()
    return (
        *projections,
        part(Rule, where="matrix", use=matrix),
        part(Rule, where="embedding", use=embedding),
        part(Rule, where="*", use=scalar),
    )


# ---- from weights to codes -----------------------------------------------------------------------------------------

FLOAT16 = part(Float, dtype="float16")
INT8 = part(IntRows, bits=8, clip=part(QuantileClip, quantile=0.9999984), min_step=1 / 127, scale_rounding="after")
"""int8 as in the baseline: the usual codec of embeddings before #1394."""
FLOAT16_GATES = (part(Rule, where="gate", use=FLOAT16),)
INT8_GATES = (part(Rule, where="gate@blocks.**", use=part(IntRows, bits=8, clip=part(MaxClip))),)


def codec_rules(
    use: Spec[Codec], *others: Spec[Rule[Codec]], projections: Spec[Codec] = FLOAT16
) -> tuple[Spec[Rule[Codec]], ...]:
    """Rules of `quantize`: float16 for scales, then `others`, int8 for embeddings, and `use` for all other matrices.

    projections: codec of the projections of the input side. The scripts store tensors of up to 65,536 elements in
    float16, and nearly all of these projections are that small.
    """
    small = (part(Rule, where="scale", use=FLOAT16), part(Rule, where="matrix@post_embed.**", use=projections))
    return (*small, *others, part(Rule, where="embedding", use=INT8), part(Rule, where="*", use=use))


def int_rows_with_step_floor(bits: int = 6, **settings: Any) -> Spec[IntRows]:
    """Integer rows with a step of at least 1/Q, where Q is the largest code, as in #164 to #1285.

    Once the weights are small, all rows have this step.
    """
    return part(IntRows, bits=bits, min_step=1 / (2 ** (bits - 1) - 1), **settings)


def gptq_damped_twice() -> Spec[GPTQ]:
    """GPTQ with a damping of 0.0201 = 1.01 * 1.01 - 1.

    #1019, #1060, #1204 and #1512 damp a Hessian by 0.01 when it is collected, and by 0.01 again in the solver.
    """
    return part(GPTQ, damping=0.0201)


def corrected(codec: Spec[Codec], *, group_size: int = 64) -> Spec[Codec]:
    """Low-rank corrections of rank 4 (LQER) of the three matrices of the recipe with the largest error (#1797).

    group_size: entries of the factor B with one scale.
    """
    factors = part(AsymmetricFactors, group_size=group_size)
    return part(LQER, codec=codec, rank=4, top_k=3, align_signs=False, scope="recipe", factors=factors)


def corrected_and_protected(codec: Spec[IntRows]) -> Spec[Codec]:
    """`corrected`, with 8 bits for the group of 64 columns with the largest score in the recipe (#1908)."""
    return corrected(part(ProtectedGroups, codec=codec, scope="recipe"))


def sd_clip_rules(
    *,
    mlp_k: float,
    rest: float,
    embed: float,
    embed_bits: int,
    gates: tuple[Spec[Rule[Codec]], ...] = (),
    extend: Callable[[Spec[IntRows]], Spec[Codec]] = lambda codec: codec,
) -> tuple[Spec[Rule[Codec]], ...]:
    """Rules of `quantize` from #1394 on: GPTQ to int6, clipped at a number of standard deviations.

    mlp_k, rest, embed: that number for the matrices of MLPs, for all others, and for the embedding, which has
    `embed_bits` bits. gates: rules for gates. extend: makes the codec of a rule from its integer rows.
    """

    def rows(k: float, bits: int = 6) -> Spec[Codec]:
        return extend(part(IntRows, bits=bits, clip=part(SdClip, k=k), solver=part(GPTQ)))

    return (
        part(Rule, where="scale", use=FLOAT16),
        *gates,
        part(Rule, where="embedding", use=rows(embed, embed_bits)),
        part(Rule, where="matrix@**.mlp.**", use=rows(mlp_k)),
        part(Rule, where="*", use=rows(rest)),
    )


# ---- adaptation while scoring --------------------------------------------------------------------------------------


def streaming_sgd(*, lr: float, epochs: int = 3, length: int = 2048) -> Spec[StreamSGD]:
    """Scoring with SGD on all weights: windows of `length` tokens at stride 64, `epochs` after each 32,768 targets.

    Source: #549, #1413.
    """
    sgd = part(SGDAdaptation, lr=lr, epochs=epochs, sequence_length=length)
    return part(StreamSGD, window=length, stride=64, adaptation=sgd)


def document_lora(
    *,
    stride: int = 48,
    rank: int = 96,
    alpha: float | None = None,
    beta: float = 0.999,
    decay: float = 0.5,
    warm: bool = False,
) -> Spec[DocumentLoRA]:
    """Scoring with LoRA adapters on nearly every matrix, for 64 documents at a time (#1530 to #1855).

    The adapter beside attention's output matrix reads the normalized input of attention, like those of q, k and v.
    alpha: the adapters' output is multiplied by alpha / rank; warm: A is kept from one document to the next (both from
    #1767). beta: second beta of Adam; decay: its weight decay.
    """
    on = ("head", "q", "k", "v", "mixer", "mlp")
    adam: dict[str, Any] = {"lr": 1e-4, "betas": (0.0, beta), "eps": 1e-10, "weight_decay": decay}
    where: dict[str, Any] = {
        "window": 2048,
        "stride": stride,
        "full_windows": True,
        "order": part(LongestFirstOrder),
    }
    return part(DocumentLoRA, rank=rank, alpha=alpha, target_modules=on, keep_a=warm, **where, **adam)


def phased_sgd(lora: Spec[DocumentLoRA], documents: int = 2000) -> Spec[PhasedLoRA]:
    """`lora` with three phases of SGD on all weights, the last after `documents` documents (#1626 to #1855).

    A chunk is one step: eight rows of 4,096 targets, one for each GPU of the original. They are read like rows in
    training, with attention within documents and within 2,048 tokens.
    """
    sgd = part(SGDAdaptation, lr=0.001, epochs=1, batch_size=8, sequence_length=4096)
    return part(PhasedLoRA, lora=lora, boundaries=even_boundaries(documents, 3), batches_in_flight=7, sgd=sgd)


def long_windows(recipe: Spec[Recipe], window: int, *, trained: tuple[tuple[int, float], ...]) -> Spec[Recipe]:
    """The recipe scored with longer windows, in which attention is not cut, as from #1953 on.

    trained: the `stages` of the segments of training. The phases of SGD read full sequences of `window` tokens, which
    do not divide evenly among the eight GPUs of the original.
    """
    masks = (part(ScheduledSegmentMask, max_length=window, stages=trained),)
    recipe = recipe.edit(SDPACore, replace(masks=masks)).set("score.0.window", window)
    recipe = recipe.set("score.1.lora.window", window)
    return recipe.set("score.1.sgd", part(RankSlicedSGD, ranks=8, lr=0.001, momentum=0.9))


# ---- calibration ---------------------------------------------------------------------------------------------------


def calibrate_on_training_text(batches: int, *, length: int = 2048) -> Spec[Calibrate]:
    """Calibration on batches of training text, each 98,304 tokens in rows of `length`: an eighth of a training step.

    In the original, the rank that writes the file calibrates on its own eighth only. length: tokens per row.
    """
    rows = 98_304 // length
    return part(Calibrate, source=part(TrainingText, batches=batches * rows // 8, rows=8, length=length))


def calibrate_on_generated_text() -> Spec[Calibrate]:
    """Calibration on 64 sequences of 2,048 tokens, sampled from the model at temperature 0.8 (#1019)."""
    return part(Calibrate, source=part(SelfGenerated, sequences=64, length=2048, temperature=(0.8,), seed=42))
