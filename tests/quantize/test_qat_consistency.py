"""Whether what training felt is what the exporter writes."""

from __future__ import annotations

import pytest

from bitgolf.config.edits import append
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import Clip, HessianSdClip, MaxClip, QuantileClip, SdClip, SearchClip
from bitgolf.grids.scales import HalfScale, LogScale, Scale
from bitgolf.model.build import build_on_meta
from bitgolf.model.interfaces import View
from bitgolf.model.part import only
from bitgolf.model.qat import FakeQuant, NoisyQuant
from bitgolf.model.qat_lowbit import Binary, Float8, Ternary
from bitgolf.quantize.codecs.codec import Codec, Float, IntRows
from bitgolf.quantize.codecs.gptq import Gptq
from bitgolf.quantize.codecs.lowbit import BinaryGroups, Fp4, Fp8, TernaryGroups
from bitgolf.quantize.codecs.lqer import LowRankRepair
from bitgolf.quantize.diagnose.qat_consistency import disagreements
from helpers.toy import VOCAB, toy_model

FINE: list[tuple[Spec[View], Spec[Codec]]] = [
    (part(FakeQuant, codec=part(IntRows, bits=6, clip=part(MaxClip))), part(IntRows, bits=6, clip=part(MaxClip))),
    (part(FakeQuant, codec=part(IntRows, bits=6, clip=part(SdClip))), part(IntRows, bits=6)),
    (part(NoisyQuant, codec=part(IntRows, bits=7, clip=part(MaxClip))), part(IntRows, bits=7, clip=part(MaxClip))),
    (part(Ternary), part(TernaryGroups)),
    (part(Binary, group=64), part(BinaryGroups, group=64)),
    (part(Float8), part(Fp8)),
    (
        part(FakeQuant, codec=part(IntRows, bits=8, multiple=4, clip=part(MaxClip))),
        part(IntRows, bits=8, multiple=4, clip=part(MaxClip)),
    ),
    (
        part(FakeQuant, codec=part(IntRows, scales=part(LogScale), clip=part(MaxClip))),
        part(IntRows, scales=part(LogScale), clip=part(MaxClip)),
    ),
    (part(FakeQuant, codec=part(IntRows, bits=4, clip=part(MaxClip))), part(Fp4)),
    (part(Ternary), part(TernaryGroups, form="bitmask")),
    (part(FakeQuant, codec=part(Fp4)), part(Fp4)),
    (part(FakeQuant, codec=part(IntRows, prune=0.03)), part(IntRows, prune=0.03, solve=part(Gptq))),
    (part(FakeQuant, codec=part(IntRows)), part(LowRankRepair, codec=part(IntRows, solve=part(Gptq)))),
]
WRONG: list[tuple[Spec[View], Spec[Codec]]] = [
    (part(FakeQuant, codec=part(IntRows, bits=6, clip=part(MaxClip))), part(IntRows, bits=5, clip=part(MaxClip))),
    (part(FakeQuant, codec=part(IntRows, bits=6, clip=part(MaxClip))), part(IntRows, bits=6)),
    (part(FakeQuant, codec=part(IntRows, clip=part(SdClip, k=10))), part(IntRows, clip=part(SdClip, k=12.85))),
    (part(FakeQuant, codec=part(IntRows, floor=1 / 31, clip=part(MaxClip))), part(IntRows, clip=part(MaxClip))),
    (part(FakeQuant, codec=part(IntRows, full_range=True, clip=part(MaxClip))), part(IntRows, clip=part(MaxClip))),
    (part(FakeQuant, codec=part(IntRows, clip=part(MaxClip))), part(Float, dtype="float16")),
    (part(Ternary), part(BinaryGroups)),
    (part(Ternary), part(TernaryGroups, group=64)),
    (part(Float8), part(Float, dtype="float16")),
    (
        part(FakeQuant, codec=part(IntRows, bits=8, clip=part(MaxClip))),
        part(IntRows, bits=8, multiple=4, clip=part(MaxClip)),
    ),
    (
        part(FakeQuant, codec=part(IntRows, scales=part(LogScale), clip=part(MaxClip))),
        part(IntRows, clip=part(MaxClip)),
    ),
    (
        part(FakeQuant, codec=part(IntRows, scales=part(LogScale), clip=part(MaxClip))),
        part(IntRows, scales=part(LogScale, per_octave=8), clip=part(MaxClip)),
    ),
    (part(FakeQuant, codec=part(IntRows, clip=part(MaxClip))), part(IntRows, clip=part(MaxClip), prune=0.03)),
    (part(FakeQuant, codec=part(IntRows, clip=part(MaxClip))), part(Fp4)),
]


def found(view: Spec[View], codec: Spec[Codec], layers: str = "*") -> list[str]:
    rules = (part(Rule, where="matrix", use=codec), part(Rule, where="*", use=part(Float, dtype="float16")))
    spec = toy_model().edit("block.mlp.linear", append(view=only(layers, view)))
    return disagreements(build_on_meta(spec, VOCAB), rules)


@pytest.mark.parametrize(("view", "codec"), FINE, ids=repr)
def test_views_and_codecs_that_agree(view: Spec[View], codec: Spec[Codec]) -> None:
    assert found(view, codec) == []


@pytest.mark.parametrize(("view", "codec"), WRONG, ids=repr)
def test_views_and_codecs_that_do_not(view: Spec[View], codec: Spec[Codec]) -> None:
    (line,) = found(view, codec)
    assert line.startswith("blocks.0.mlp.up.weight and 5 more: ")
    assert view.cls.__name__ in line and codec.cls.__name__ in line  # type: ignore[union-attr]


def test_one_line_for_each_kind_of_disagreement() -> None:
    view, codec = WRONG[0]
    assert found(view, codec, layers="2") == [
        line.replace("blocks.0", "blocks.2").replace(" 5 more", " 1 more") for line in found(view, codec)
    ]
    assert disagreements(build_on_meta(toy_model(), VOCAB), (part(Rule, where="*", use=codec),)) == []


def test_the_difference_is_named() -> None:
    codec = part(IntRows, bits=8, multiple=4, clip=part(MaxClip), prune=0.03, scales=part(LogScale))
    (line,) = found(part(FakeQuant, codec=part(IntRows, bits=8, clip=part(SdClip, k=9.0))), codec)
    assert "FakeQuant of int8, SdClip(k=9.0), stored" in line
    assert line.endswith(
        "IntRows of int8, multiples of 4, steps in LogScale(per_octave=16), MaxClip(), 0.03 of it pruned"
    )


@pytest.mark.parametrize("clip", [MaxClip, QuantileClip, SdClip, HessianSdClip, SearchClip])
@pytest.mark.parametrize("scales", [HalfScale, LogScale])
def test_formats_are_named_as_a_recipe_writes_them(clip: type[Clip], scales: type[Scale]) -> None:
    """So every setting of these parts must be kept under its argument's name."""
    codec = part(IntRows, bits=8, clip=part(clip), scales=part(scales))
    (line,) = found(part(FakeQuant, codec=part(IntRows, bits=7)), codec)
    assert f", {part(clip)!r}" in line.rpartition("stored by ")[2]
    assert scales is HalfScale or f", steps in {part(scales)!r}" in line
