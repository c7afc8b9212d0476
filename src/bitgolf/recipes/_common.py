"""What the recipes of published systems share: how they route parameters, quantize, calibrate and adapt.

All recipes train, calibrate, round, pack and score as published; what differs is named in each one's `departures`
(`published.json`). In no recipe:

- what `torch.save` puts around arrays, and the code (`code` of the published bytes): our files hold neither.
- selective pruning of codes of 1 and -1 (#1019, #1512): in none of the published runs was there anything to prune.
- lrzip (#1855), which is a program, and ships in no file of ours.
"""

from __future__ import annotations

from typing import Any

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip, QuantileClip, SdClip
from bitgolf.optim.adam import Adam
from bitgolf.optim.algorithm import UpdateAlgorithm
from bitgolf.optim.muon import Muon
from bitgolf.quantize.calibration.calibrate import Calibrate
from bitgolf.quantize.calibration.sources import SelfGenerated, TrainingText
from bitgolf.quantize.codecs.codec import Codec, Float, IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.gradient import SGDAdaptation
from bitgolf.score.adapt.phased_lora import PhasedLoRA, even_boundaries
from bitgolf.score.adapt.stream_sgd import StreamSGD
from bitgolf.score.document_order import LongestFirstOrder

BFLOAT16_MUON: dict[str, Any] = {"reduce_dtype": "bfloat16", "momentum_dtype": "bfloat16"}
"""Muon of the scripts with parameter banks (#399, #549 to #1204 and #1512, #1530 to #1855): gradients travel in bfloat16, and the momentum is kept in it."""


def optimizer_rules(
    matrix: Spec[Muon], embedding: Spec[Adam], scalar: Spec[Adam], *, input_projections: str = "matrix"
) -> tuple[Spec[Rule[UpdateAlgorithm]], ...]:
    """The field's routing: matrices to Muon, tables to one Adam, everything small to another.

    `input_projections` says where the matrices of the input side (bigram, value table) go: to `matrix`, as in the scripts
    with a parameter for each layer, or to `scalar`, as in those with parameter banks.
    """
    aside = (part(Rule, where="matrix@post_embed.**", use=scalar),) if input_projections == "scalar" else ()
    return (
        *aside,
        part(Rule, where="matrix", use=matrix),
        part(Rule, where="embedding", use=embedding),
        part(Rule, where="*", use=scalar),
    )


# ---- from weights to codes -----------------------------------------------------------------------------------------

FLOAT16 = part(Float, dtype="float16")
INT8 = part(IntRows, bits=8, clip=part(QuantileClip, quantile=0.9999984), min_step=1 / 127)
"""The baseline's int8: what tables had until #1394."""
FLOAT16_GATES = (part(Rule, where="gate", use=FLOAT16),)
INT8_GATES = (part(Rule, where="gate@blocks.**", use=part(IntRows, bits=8, clip=part(MaxClip))),)


def codec_rules(
    use: Spec[Codec], *others: Spec[Rule[Codec]], projections: Spec[Codec] = FLOAT16
) -> tuple[Spec[Rule[Codec]], ...]:
    """`use` for the blocks' matrices that `others` leave; int8 for tables; float16 for what is small.

    Up to 65,536 numbers were small: so nearly all projections of the input side.
    """
    small = (part(Rule, where="scale", use=FLOAT16), part(Rule, where="matrix@post_embed.**", use=projections))
    return (*small, *others, part(Rule, where="embedding", use=INT8), part(Rule, where="*", use=use))


def int_rows_with_step_floor(bits: int = 6, **settings: Any) -> Spec[IntRows]:
    """Rows whose step is 1/Q or more, as in #164 to #1285: the same step for all rows, once weights are small."""
    return part(IntRows, bits=bits, min_step=1 / (2 ** (bits - 1) - 1), **settings)


def gptq_damped_twice() -> Spec[GPTQ]:
    """In #1019, #1060, #1204 and #1512 a Hessian was damped by a hundredth when it was collected, and again in the solver."""
    return part(GPTQ, damping=0.0201)


def sd_clip_rules(
    *,
    mlp_k: float,
    rest: float,
    embed: float,
    embed_bits: int,
    gates: tuple[Spec[Rule[Codec]], ...] = (),
    repaired: bool = False,
) -> tuple[Spec[Rule[Codec]], ...]:
    """From #1394 on: all matrices by GPTQ, int6, clipped at so many standard deviations; the table likewise, by its own.

    repaired: low-rank repairs, of rank 4, of the table and of the two worst first matrices of MLPs.
    """

    def rows(k: float, bits: int = 6) -> Spec[Codec]:
        return part(IntRows, bits=bits, clip=part(SdClip, k=k), solver=part(GPTQ))

    table, up = rows(embed, embed_bits), ()
    if repaired:
        table = part(LQER, codec=table, rank=4, top_k=1)
        up = (part(Rule, where="matrix@**.mlp.up.weight", use=part(LQER, codec=rows(mlp_k), rank=4, top_k=2)),)
    return (
        part(Rule, where="scale", use=FLOAT16),
        *gates,
        part(Rule, where="embedding", use=table),
        *up,
        part(Rule, where="matrix@**.mlp.**", use=rows(mlp_k)),
        part(Rule, where="*", use=rows(rest)),
    )


# ---- adaptation while scoring --------------------------------------------------------------------------------------


def streaming_sgd(*, lr: float) -> Spec[StreamSGD]:
    """Windows of 2,048 tokens every 64, and after each 32,768 targets three epochs of descent on all weights (#549, #1413)."""
    return part(
        StreamSGD, window=2048, stride=64, adaptation=part(SGDAdaptation, lr=lr, epochs=3, sequence_length=2048)
    )


def document_lora(
    *,
    stride: int = 48,
    rank: int = 96,
    alpha: float | None = None,
    beta: float = 0.999,
    decay: float = 0.5,
    warm: bool = False,
) -> Spec[DocumentLoRA]:
    """Adapters on nearly every matrix, for 64 documents at a time (#1530 to #1855). `alpha` and `warm` are of #1767."""
    on = ("head", "q", "k", "v", "out", "mlp")
    adam: dict[str, Any] = {"lr": 1e-4, "betas": (0.0, beta), "eps": 1e-10, "weight_decay": decay}
    where: dict[str, Any] = {"window": 2048, "stride": stride, "order": part(LongestFirstOrder)}
    return part(DocumentLoRA, rank=rank, alpha=alpha, target_modules=on, keep_a=warm, **where, **adam)


def phased_sgd(lora: Spec[DocumentLoRA], documents: int = 2000) -> Spec[PhasedLoRA]:
    """Three times descent on all weights, within the first so many documents (#1626 to #1855)."""
    sgd = part(SGDAdaptation, lr=0.001, epochs=1, sequence_length=2048, split_documents=True)
    return part(PhasedLoRA, lora=lora, boundaries=even_boundaries(documents, 3), sgd=sgd)


# ---- calibration ---------------------------------------------------------------------------------------------------


def calibrate_on_training_text(batches: int) -> Spec[Calibrate]:
    """So many batches of 48 rows of 2,048 tokens, an eighth of a step each: what the rank saw that wrote the file."""
    return part(Calibrate, source=part(TrainingText, batches=6 * batches, rows=8, length=2048))


def calibrate_on_generated_text() -> Spec[Calibrate]:
    """As in #1019."""
    return part(Calibrate, source=part(SelfGenerated, sequences=64, length=2048, temperature=(0.8,), seed=42))
