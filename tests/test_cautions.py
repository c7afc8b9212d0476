"""Tests of cautions: each is raised for a recipe with the fault and not without it, and its statement is true."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from bitgolf.average.ema import EMA
from bitgolf.average.lawa import LAWA
from bitgolf.average.swa import SWA
from bitgolf.cautions import cautions
from bitgolf.cautions.registry import CAUTIONS
from bitgolf.commands.show import describe_recipe
from bitgolf.config.edits import append, remove, replace
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.cores.scheduled_segments import ScheduledSegmentMask
from bitgolf.model.attention.cores.sdpa import DocumentMask, SDPACore, SegmentMask, SlidingWindowMask
from bitgolf.model.attention.differential import DifferentialAttention, SplitValueDifferentialAttention
from bitgolf.model.attention.exclusive import ExclusiveSelfAttention
from bitgolf.model.attention.gates import DenseAttentionGate, NarrowAttentionGate, SparseAttentionGate
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.rope_scaling import NTKScaling, YaRNScaling
from bitgolf.model.attention.values import FixedValueResidual, ValueResidual
from bitgolf.model.block import Block
from bitgolf.model.factored_embedding import FactoredEmbedding
from bitgolf.model.grouped_linear import GroupedLinear
from bitgolf.model.layer_orders import ExplicitLayerOrder, LoopedLayers
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.mlp import MLP, SwiGLU
from bitgolf.model.objectives import CrossEntropy, EntropyWeightedLoss, SharedHeadMultiToken
from bitgolf.model.part import only
from bitgolf.model.qat import FakeQuant, SoftRoundQuant
from bitgolf.model.residual import ResidualWarmup
from bitgolf.model.smear import BlendSmear, ContentSmear
from bitgolf.model.weight_sharing import TieBlocks
from bitgolf.optim.adam import Adam
from bitgolf.optim.gram_newton_schulz import GramNewtonSchulz
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import InverseLRRamp
from bitgolf.pipeline.code_size import CodeSize
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.recipes import get_recipe, recipe_names
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.adapt.gradient import AdamWAdaptation
from bitgolf.score.methods import ContiguousScoring
from bitgolf.training.batch_schedule import BatchSizeWarmup

Edit = Callable[[Spec[Recipe]], Spec[Recipe]]
known = cache(get_recipe)  # recipes never change


def to(path: str, value: Any) -> Edit:
    return lambda recipe: recipe.set(path, value)


def edit(where: str | type, change: Callable[[Spec[Any]], Spec[Any]]) -> Edit:
    return lambda recipe: recipe.edit(where, change)


def both(*edits: Edit) -> Edit:
    def change(recipe: Spec[Recipe]) -> Spec[Recipe]:
        for one in edits:
            recipe = one(recipe)
        return recipe

    return change


def limited(steps: int) -> Edit:
    """Limited by steps alone."""
    return edit("train", replace(seconds=0.0, steps=steps))


def masked(mask: Spec[Any]) -> Edit:
    return edit(SDPACore, append(masks=mask))


def late(view: type, **settings: Any) -> Edit:
    codec = part(IntRows, clip=part(MaxClip), **settings)
    return edit("model.block.**.linear", append(weight_transforms=part(view, since=0.9, codec=codec)))


def looped(*since: float) -> Edit:
    return edit(UNet, replace(order=part(LoopedLayers, first_layer=3, last_layer=4, since=since)))


def after(*parts: Spec[Any]) -> Edit:
    return both(*(edit(Attention, append(post_attention=p)) for p in parts))


def value(node: Spec[Any]) -> Edit:
    return edit(Attention, append(value=node))


def scaled(scaling: Spec[Any]) -> Edit:
    return edit(RoPE, replace(scaling=scaling))


def averaged(average: Spec[Any] | None) -> Edit:
    return to("average", average)


def mlp(node: type) -> Edit:
    return to("model.block.mlp", part(node, hidden=1024))


def differential(recipe: Spec[Recipe]) -> Spec[Recipe]:
    return recipe.set("model.block.mixer", part(DifferentialAttention, **recipe["model.block.mixer"].kwargs))


def split_values(recipe: Spec[Recipe]) -> Spec[Recipe]:
    return recipe.set("model.block.mixer", part(SplitValueDifferentialAttention, **recipe["model.block.mixer"].kwargs))


class Adapting(ContiguousScoring):
    """A method that trains while it scores."""

    adapts = True


EARLY_SWA = part(SWA, every=50, lr_scale_below=0.5)
EVERYWHERE = part(ExclusiveSelfAttention)
QAT = late(FakeQuant)

CASES: dict[str, tuple[str, Edit, str]] = {
    # what is wrong: the recipe, the fault, words of the caution
    "ema over late fake quantization": ("baseline", both(QAT, averaged(part(EMA))), r"EMA averages .* fake quantization \(at 0.9 of the run"),
    "lawa from before it": ("baseline", both(QAT, averaged(part(LAWA, every=5, keep=5, lr_scale_below=0.5))), "LAWA averages .* fake"),
    "swa from before it": ("pr1493", both(QAT, averaged(EARLY_SWA)), "SWA averages .* fake quantization"),
    "soft rounding counts too": ("baseline", both(late(SoftRoundQuant), averaged(part(EMA))), "EMA averages .* fake"),
    "ema of ternary weights": ("pr640", averaged(part(EMA)), "ternary or binary weights rounds"),
    "swa of binary weights": ("pr641", averaged(EARLY_SWA), "ternary or binary weights rounds"),
    "decay of ternary weights": ("pr640", edit(Muon, replace(weight_decay=0.04)), "weight decay on ternary"),
    "a long average": ("pr1493", edit(EMA, replace(decay=0.999)), "averages over about 1,000 steps"),
    "an average that remembers": ("quickstart", both(limited(100), averaged(part(EMA, decay=0.99))), "initial weights still contribute 37%"),
    "noise at the end": ("pr1787", averaged(None), "never falls below 0.1,"),
    "six bits for embeddings": ("pr1493", to("quantize.1.use.bits", 6), "embedding is quantized to 6 bits"),
    "coarse steps": ("pr1493", edit(IntRows, lambda n: n.replace(min_step=1 / 31) if n["bits"] == 6 else n), "min_step=0.032"),
    "coarse steps in training": ("pr1493", late(FakeQuant, min_step=1 / 31), "min_step=0.032"),
    "a longer window": ("baseline", to("score.0.window", 2048), "scoring context of 2,048 tokens exceeds the training context of 1,024"),
    "segments longer than rows": ("pr1530", edit("train", replace(length=1024)), "of 2,048 tokens exceeds .* of 1,024"),
    "segments longer in scoring": ("pr2014", edit(ScheduledSegmentMask, replace(stages=((2048, 1.0),))), "of 3,072 tokens exceeds .* of 2,048"),
    "ntk in training": ("baseline", scaled(part(NTKScaling, original_length=1024, length=2048)), "RoPE base of 20,452 instead of 10,000"),
    "ntk for nothing": ("pr164", edit(NTKScaling, replace(original_length=2048)), "NTKScaling.* has no effect"),
    "yarn for nothing": ("pr640", scaled(part(YaRNScaling, original_length=2048)), "YaRNScaling.* has no effect"),
    "ntk for another length": ("pr164", edit(NTKScaling, replace(length=4096)), "to 4,096 tokens, but training and scoring use 2,048"),
    "yarn too far": ("pr640", edit(YaRNScaling, replace(length=4096)), "scaling to 4,096 was worse"),
    "an idle window": ("baseline", masked(part(SlidingWindowMask, left=1023)), r"SlidingWindowMask\(left=1023\) masks nothing in training contexts of 1,024"),
    "an idle window in a segment": ("pr1530", masked(only("0-5", part(SlidingWindowMask, left=2047))), "masks nothing in training contexts of 2,048"),
    "packed without a mask": ("pr1530", edit(SDPACore, remove("masks", SegmentMask)), "a row of 98,304 tokens"),
    "a smear past the mask": ("pr1851", edit(ContentSmear, replace(mask_starts=False)), "ContentSmear with mask_starts=false"),
    "bigrams past the mask": ("pr162", masked(part(DocumentMask)), "HashedNGramEmbedding with mask_starts=false"),
    "value residual in a loop": ("pr1394", value(part(ValueResidual)), "a value residual in a model that executes layers"),
    "on tied blocks": ("baseline", both(value(part(FixedValueResidual)), to("model.weight_sharing", (part(TieBlocks, blocks=3),))), "a value residual"),
    "exclusive everywhere": ("baseline", both(after(EVERYWHERE), looped(0.0)), "ExclusiveSelfAttention on every layer"),
    "exclusive by name": ("baseline", both(after(only("0-8", EVERYWHERE)), looped(0.0)), "ExclusiveSelfAttention on every layer"),
    "exclusive by star": ("baseline", both(after(only("*", EVERYWHERE)), looped(0.0)), "ExclusiveSelfAttention on every layer"),
    "a loop from the start": ("baseline", looped(0.0, 0.5), "layers are shared from the first step"),
    "visits again": ("baseline", edit(UNet, replace(order=part(ExplicitLayerOrder, order=(*range(9), 8)))), "layers are shared from the first"),
    "tied blocks": ("baseline", to("model.weight_sharing", (part(TieBlocks, blocks=3),)), "layers are shared from the first step"),
    "factored at 1,024": ("baseline", to("model.embed", part(FactoredEmbedding, width=64)), "FactoredEmbedding with a vocabulary of 1,024"),
    "two gates": ("pr1787", after(part(NarrowAttentionGate)), "two gates on one"),
    "two gates on one layer": ("baseline", after(only("0-4", part(DenseAttentionGate)), only("4-8", part(SparseAttentionGate))), "two gates on one"),
    "quintic cap alone": ("pr640", to("train.objective", part(CrossEntropy)), "beyond 1.69 times the cap"),
    "inflated loss": ("baseline", to("train.objective", part(EntropyWeightedLoss, normalised=False)), "up to 1.5 times"),
    "cautious decay": ("pr1493", edit(Muon, replace(cautious_weight_decay=True)), "1.1375 bpb, against 1.115 with plain"),
    "cautious decay of Adam": ("pr1493", edit(Adam, replace(cautious_weight_decay=True)), "1.1375 bpb, against 1.115 with plain"),
    "a ramp beside a decay": ("pr1493", edit(Muon, replace(weight_decay_schedule=part(InverseLRRamp))), "weight_decay=0.095 multiplies it"),
    "fading in": ("baseline", both(limited(200), edit(Block, append(residual_scale=part(ResidualWarmup)))), "after 270 steps, .* ends after 200"),
    "swiglu on the clock": ("baseline", mlp(SwiGLU), "SwiGLU under a time limit"),
    "values split between two maps": ("baseline", split_values, "worse by 0.022 bpb"),
    "grouped matrices": ("pr640", edit(MLP, replace(linear=part(GroupedLinear, groups=2))), "worse by 0.031 bpb with two"),
    "differential on the clock": ("baseline", differential, "about twice as long"),
    "gram": ("baseline", edit(Muon, replace(orthogonalize=part(GramNewtonSchulz))), "GramNewtonSchulz at width 512"),
    "shared logits": ("baseline", to("train.objective", part(SharedHeadMultiToken)), "one set of logits with two targets"),
    "batch ramp": ("baseline", to("train.batch_warmup", (part(BatchSizeWarmup, milestones=((0.0, 0.5), (0.4, 1.0))),)), "BatchSizeWarmup: smaller"),
    "fast descent on loops": ("pr1493", to("score.2.adaptation.lr", 0.01), "learning rate of 0.01 on layers that are executed more than once"),
    "adam on the stream": ("pr549", to("score.2.adaptation", part(AdamWAdaptation)), "AdamWAdaptation of all weights"),
    "too many phases": ("pr1855", to("score.1.boundaries", (1, 2, 3, 4, 5, 6)), "^6 adaptation phases"),
    "offset keys and adaptation": ("pr1512", to("score", (part(Adapting, window=4096),)), "KeyOffset with adaptation"),
}  # fmt: skip

FINE: dict[str, tuple[str, Edit, str]] = {
    # what is no fault: the recipe, what is done to it, words of the caution that does not come
    "fake quantization from the start": ("baseline", both(QAT, edit(FakeQuant, replace(since=0.0)), averaged(part(EMA))), "averages weights from before"),
    "late fake quantization alone": ("baseline", QAT, "averages weights from before"),
    "ema from the switch on": ("baseline", both(QAT, averaged(part(EMA, since=0.9))), "averages weights from before"),
    "ema of the end of a short run": ("baseline", both(limited(300), averaged(part(EMA, since=0.5))), "initial weights"),
    "swa from after the switch": ("pr1493", both(QAT, averaged(part(SWA, every=5, lr_scale_below=0.1))), "averages weights from before"),
    "descent as published": ("pr1493", lambda recipe: recipe, "SGD adaptation"),
    "fast descent without loops": ("pr549", to("score.2.adaptation.lr", 0.01), "SGD adaptation"),
    "three phases": ("pr1855", lambda recipe: recipe, "phases"),
    "a long average of a long run": ("pr1493", both(limited(50_000), edit(EMA, replace(decay=0.999))), "averages over|initial"),
    "a corrected average": ("quickstart", limited(20), "initial weights"),
    "ema that forgets the start": ("pr1493", limited(4000), "initial weights"),
    "no floor, no average": ("pr164", lambda r: r, "never falls"),
    "trained for six bits": ("pr1493", both(to("quantize.1.use.bits", 6), to("model.embed.weight_transforms", (part(FakeQuant, codec=part(IntRows, clip=part(MaxClip))),))), "embedding is quantized"),
    "a coarse step without decay": ("pr164", edit(IntRows, replace(min_step=1 / 31)), "min_step="),
    "a step that is fine enough": ("pr1493", edit(IntRows, replace(min_step=1 / 961)), "min_step="),
    "a window as long as rows": ("pr1512", lambda r: r, "exceeds the training context"),
    "segments that grow to the window": ("pr2014", lambda r: r, "exceeds the training context"),
    "segments bound the window": ("pr1530", to("score", (part(ContiguousScoring, window=8192),)), "exceeds the training context"),
    "yarn to 2,048": ("pr640", lambda r: r, "YaRNScaling"),
    "a window that hides": ("baseline", masked(part(SlidingWindowMask, left=1022)), "masks nothing"),
    "packed in one document": ("pr1530", both(edit(SDPACore, remove("masks", SegmentMask)), masked(part(DocumentMask))), "PackedDocuments packs"),
    "open starts under open attention": ("pr162", edit(BlendSmear, replace(mask_starts=False)), "mask_starts=false"),
    "value residual on plain layers": ("baseline", value(part(ValueResidual)), "value residual"),
    "exclusive on some layers": ("baseline", both(after(only("last 8", EVERYWHERE)), looped(0.0)), "ExclusiveSelfAttention on"),
    "exclusive, loop later": ("pr1493", lambda r: r, "ExclusiveSelfAttention on|shared from"),
    "each layer once": ("baseline", edit(UNet, replace(order=part(ExplicitLayerOrder, order=tuple(range(9))))), "shared from"),
    "gates on different layers": ("baseline", after(only("0-3", part(DenseAttentionGate)), only("4-8", part(SparseAttentionGate))), "two gates"),
    "factored at 8,192": ("pr640", lambda r: r, "FactoredEmbedding with"),
    "normalised weights": ("baseline", to("train.objective", part(EntropyWeightedLoss)), "1.5 times"),
    "the ramp alone": ("pr675", lambda r: r, "InverseLRRamp"),
    "faded in": ("baseline", both(limited(270), edit(Block, append(residual_scale=part(ResidualWarmup)))), "ResidualWarmup"),
    "swiglu by steps": ("baseline", both(limited(9000), mlp(SwiGLU)), "SwiGLU"),
    "gram on large matrices": ("baseline", both(to("model.dim", 2048), edit(Muon, replace(orthogonalize=part(GramNewtonSchulz)))), "Gram"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_fires_on_the_fault_and_not_without_it(case: str) -> None:
    name, fault, words = CASES[case]
    sound = known(name)
    assert not re.search(words, "\n".join(cautions(sound)))
    found = [text for text in cautions(fault(sound)) if re.search(words, text)]
    assert len(found) == 1 and "\n" not in found[0]


@pytest.mark.parametrize("case", FINE)
def test_it_is_silent_where_there_is_no_fault(case: str) -> None:
    name, change, words = FINE[case]
    assert not [text for text in cautions(change(known(name))) if re.search(words, text)]


def test_every_caution_has_a_case() -> None:
    silent = {check.__name__ for check in CAUTIONS}
    for name, fault, _ in CASES.values():
        faulty = fault(known(name))
        silent -= {check.__name__ for check in CAUTIONS if list(check(faulty))}
    assert not silent


def test_the_forecast_comes_first() -> None:
    shown = describe_recipe(known("pr1530").set("pack.cap", 1_000_000), code=CodeSize(90_000))
    total = shown.forecast.bytes + 90_000
    assert shown.cautions[0] == (
        f"the artifact and the script are forecast to have {total:,} bytes, {total - 1_000_000:,} more than the cap of"
        " 1,000,000 (pack.cap)"
    )
    alone = describe_recipe(known("pr1530").set("pack.cap", 1_000_000).set("pack.counted", "model")).cautions
    assert alone[0].startswith("the artifact is forecast to have") and alone[1:] == shown.cautions[1:]


BASES = {"164": 20_452, "265": 20_452, "287": 20_452, "1512": 48_761}
BASES |= dict.fromkeys(["315", "363", "414", "549", "1019", "1060", "1204"], 22_082)
FLOORED = {"265", "287", "315", "363", "414", "549", "1019", "1060", "1204", "1218", "1285", "1512"}
LATE = {"315": 0.957, "414": 0.926, "549": 0.927, "1019": 0.913, "1512": 0.918}


@pytest.mark.parametrize("name", recipe_names())
def test_what_is_said_of_each_recipe(name: str) -> None:
    """The bases are those that the reports of these runs imply; the moments, where their rate falls under a tenth or 0.15."""
    said, number = cautions(known(name)), name.removeprefix("pr")
    expected = [rf"^EMA averages .* fake quantization \(at {LATE[number]} of the run"] if number in LATE else []
    expected += [r"^min_step=0\.0(32|67)"] if number in FLOORED else []
    expected += [rf"RoPE base of {BASES[number]:,} instead of 10,000"] if number in BASES else []
    longer = "^the scoring context of 2,560 tokens exceeds the training context of 2,048"
    expected += [longer] if number in ("1953", "2135", "bitgolf16") else []
    expected += ["ContentSmear with mask_starts=false"] if number == "2135" else []
    expected += ["^layers are shared from the first step"] if name == "pr363" else []
    expected += ["^SwiGLU under a time limit"] if name.startswith("pr1090") else []
    assert len(said) == len(expected)
    assert all(re.search(words, text) for words, text in zip(expected, said, strict=True))
