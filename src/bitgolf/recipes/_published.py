"""What the recipes of published systems share: how they route parameters, and how their results are written down.

Results are the authors' own, on FineWeb's validation text, read from their logs and submissions; nothing here was
measured by us. `bpb` holds the mean over the seeds (of one, the one submitted) by stage: `trained` before averaging,
`averaged`, `packed` (the contiguous windows of the quantized model), `sliding`, `adapted` (after adaptation at scoring
time); `bytes` is the largest file of these seeds.

All recipes train, calibrate, round, pack and score as published; what differs is named in each one's `departures`. In no
recipe:

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
from bitgolf.optim.muon import Muon
from bitgolf.quantize.calibration.calibrate import Calibrate
from bitgolf.quantize.calibration.sources import OwnSamples, TrainingText
from bitgolf.quantize.codecs.codec import Codec, Float, IntRows
from bitgolf.quantize.codecs.gptq import Gptq
from bitgolf.quantize.codecs.lqer import LowRankRepair
from bitgolf.score.adapt.document_lora import DocumentLora
from bitgolf.score.adapt.gradient import Sgd
from bitgolf.score.adapt.phased_lora import Phased, evenly
from bitgolf.score.adapt.stream_sgd import StreamSgd
from bitgolf.score.document_order import LongestFirst

H100 = "8 x H100 SXM, 600 s"

BANKS: dict[str, Any] = {"reduce": "bfloat16", "buffer": "bfloat16"}
"""Muon of the scripts with parameter banks (#399, #549 to #1204 and #1512, #1530 to #1855): gradients travel in bfloat16, and the momentum is kept in it."""

# Departures that nothing undoes.
CLIPPED = {"the gradient is clipped after the mean over all processes, where each clipped its own": ""}
SEARCHED = {"clips are searched with rounding to the nearest, where the original tried GPTQ with each": ""}
LOOKED_UP = {"the embedding's statistics count its lookups, where the original's were those of the head alone": ""}
WITHIN = {"calibration keeps to documents, where the original's attention ran over their ends": ""}
AFTER = {"calibration is inside the training clock, where the original's began after it": "calibrate.reserve=0"}
REPAIRED = {
    "of the embedding one matrix is repaired and of the MLPs two, where the original took the three worst of all": "",
    "a repair's factors are turned so that two bits reach their largest entries": "",
}


def groups(
    matrix: Spec[Muon], embedding: Spec[Adam], scalar: Spec[Adam], *, projections: str = "matrix"
) -> tuple[Spec[Rule], ...]:
    """The field's routing: matrices to Muon, tables to one Adam, everything small to another.

    `projections` says where the matrices of the input side (bigram, value table) go: to `matrix`, as in the scripts
    with a parameter for each layer, or to `scalar`, as in those with parameter banks.
    """
    aside = (part(Rule, where="matrix@enter.**", use=scalar),) if projections == "scalar" else ()
    return (
        *aside,
        part(Rule, where="matrix", use=matrix),
        part(Rule, where="embedding", use=embedding),
        part(Rule, where="*", use=scalar),
    )


def results(
    pull_request: int,
    *,
    bpb: dict[str, float],
    bytes: int,
    params: int | None,
    seeds: dict[int, dict[str, float]] | None = None,
    hardware: str = H100,
    code: int | None = None,
    departures: dict[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A recipe's `published`: `seeds` by seed, `departures` as what differs here -> the `--set` that undoes it.

    `bytes` counts the code, `code` of them, which is None where nothing tells it.
    """
    return {
        "source": f"openai/parameter-golf, pull request {pull_request}",
        "hardware": hardware,
        "text": "FineWeb, first 50,000 documents",
        "params": params,
        "bpb": bpb,
        "bytes": bytes,
        "code": code,
        "seeds": {str(seed): values for seed, values in (seeds or {}).items()},
        "departures": departures or {},
        **more,
    }


# ---- from weights to codes -----------------------------------------------------------------------------------------

HALF = part(Float, dtype="float16")
BYTES = part(IntRows, bits=8, clip=part(QuantileClip, quantile=0.9999984), floor=1 / 127)
"""The baseline's int8: what tables had until #1394."""
HALF_GATES = (part(Rule, where="gate", use=HALF),)
BYTE_GATES = (part(Rule, where="gate@blocks.**", use=part(IntRows, bits=8, clip=part(MaxClip))),)


def codec(use: Spec[Codec], *others: Spec[Rule], projections: Spec[Codec] = HALF) -> tuple[Spec[Rule], ...]:
    """`use` for the blocks' matrices that `others` leave; int8 for tables; float16 for what is small.

    Up to 65,536 numbers were small: so nearly all projections of the input side.
    """
    small = (part(Rule, where="scale", use=HALF), part(Rule, where="matrix@enter.**", use=projections))
    return (*small, *others, part(Rule, where="embedding", use=BYTES), part(Rule, where="*", use=use))


def floored(bits: int = 6, **settings: Any) -> Spec[IntRows]:
    """Rows whose step is 1/Q or more, as in #164 to #1285: the same step for all rows, once weights are small."""
    return part(IntRows, bits=bits, floor=1 / (2 ** (bits - 1) - 1), **settings)


def twice_damped() -> Spec[Gptq]:
    """In #1019, #1060, #1204 and #1512 a Hessian was damped by a hundredth when it was collected, and again in the solver."""
    return part(Gptq, damping=0.0201)


def deviations(
    *,
    mlp: float,
    rest: float,
    embed: float,
    embed_bits: int,
    gates: tuple[Spec[Rule], ...] = (),
    repaired: bool = False,
) -> tuple[Spec[Rule], ...]:
    """From #1394 on: all matrices by GPTQ, int6, clipped at so many standard deviations; the table likewise, by its own.

    repaired: low-rank repairs, of rank 4, of the table and of the two worst first matrices of MLPs.
    """

    def rows(k: float, bits: int = 6) -> Spec[Codec]:
        return part(IntRows, bits=bits, clip=part(SdClip, k=k), solve=part(Gptq))

    table, up = rows(embed, embed_bits), ()
    if repaired:
        table = part(LowRankRepair, codec=table, rank=4, keep=1)
        up = (part(Rule, where="matrix@**.mlp.up.weight", use=part(LowRankRepair, codec=rows(mlp), rank=4, keep=2)),)
    return (
        part(Rule, where="scale", use=HALF),
        *gates,
        part(Rule, where="embedding", use=table),
        *up,
        part(Rule, where="matrix@**.mlp.**", use=rows(mlp)),
        part(Rule, where="*", use=rows(rest)),
    )


# ---- adaptation while scoring --------------------------------------------------------------------------------------

ADAPTED = {
    "document ends are scored, where the original left them out, and so are pieces of one token": "",
    "adapters start from a uniform A and a B of zero, where the original's were small normal numbers": "",
    "also documents under 32 tokens have adapters, which in a single piece change nothing": "",
}
"""#1090."""
CHARGED = {"the lengths of the documents, of which the longest comes first, are charged to the score": ""}


def by_chunks(*, lr: float) -> Spec[StreamSgd]:
    """Windows of 2,048 tokens every 64, and after each 32,768 targets three epochs of descent on all weights (#549, #1413)."""
    return part(StreamSgd, window=2048, stride=64, sgd=part(Sgd, lr=lr, epochs=3, length=2048))


def by_document(
    *,
    stride: int = 48,
    rank: int = 96,
    alpha: float | None = None,
    beta: float = 0.999,
    decay: float = 0.5,
    warm: bool = False,
) -> Spec[DocumentLora]:
    """Adapters on nearly every matrix, for 64 documents at a time (#1530 to #1855). `alpha` and `warm` are of #1767."""
    on = ("head", "q", "k", "v", "out", "mlp")
    adam: dict[str, Any] = {"lr": 1e-4, "betas": (0.0, beta), "eps": 1e-10, "weight_decay": decay}
    where: dict[str, Any] = {"window": 2048, "stride": stride, "order": part(LongestFirst)}
    return part(DocumentLora, rank=rank, alpha=alpha, on=on, warm=warm, **where, **adam)


def by_phases(lora: Spec[DocumentLora], documents: int = 2000) -> Spec[Phased]:
    """Three times descent on all weights, within the first so many documents (#1626 to #1855)."""
    sgd = part(Sgd, lr=0.001, epochs=1, length=2048, documents=True)
    return part(Phased, lora=lora, boundaries=evenly(documents, 3), sgd=sgd)


# ---- calibration ---------------------------------------------------------------------------------------------------


def on_training_text(batches: int) -> Spec[Calibrate]:
    """So many batches of 48 rows of 2,048 tokens, an eighth of a step each: what the rank saw that wrote the file."""
    return part(Calibrate, source=part(TrainingText, batches=6 * batches, rows=8, length=2048))


def on_own_samples() -> Spec[Calibrate]:
    """As in #1019."""
    return part(Calibrate, source=part(OwnSamples, sequences=64, length=2048, temperature=(0.8,), seed=42))


def reserved(seconds: float) -> dict[str, str]:
    """The departure of a recipe whose original ended training so many seconds early, to calibrate."""
    words = "the time of calibration is measured, where the original reserved"
    return {f"{words} {seconds:g} s": f"calibrate.reserve={seconds:g}"}
