"""Fake quantization in training agrees with the codecs that store the weights."""

from __future__ import annotations

import pytest

from bitgolf.config.edits import append
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import Clip, HessianSdClip, MaxClip, QuantileClip, SdClip, SearchClip
from bitgolf.grids.scales import Float16Scale, Float32Scale, LogScale, ScaleFormat
from bitgolf.model.build import build_on_meta
from bitgolf.model.interfaces import WeightTransform
from bitgolf.model.part import only
from bitgolf.model.qat import FakeQuant, QuantNoise
from bitgolf.model.qat_lowbit import FakeBinary, FakeFloat8, FakeTernary
from bitgolf.quantize.codecs.codec import Codec, Float, IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.codecs.lowbit import FP8, BinaryGroups, PackedInt4, TernaryGroups
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.diagnose.qat_consistency import qat_mismatches
from helpers.toy import VOCAB, toy_model

FINE: list[tuple[Spec[WeightTransform], Spec[Codec]]] = [
    (part(FakeQuant, codec=part(IntRows, bits=6, clip=part(MaxClip))), part(IntRows, bits=6, clip=part(MaxClip))),
    (part(FakeQuant, codec=part(IntRows, bits=6, clip=part(SdClip))), part(IntRows, bits=6)),
    (part(QuantNoise, codec=part(IntRows, bits=7, clip=part(MaxClip))), part(IntRows, bits=7, clip=part(MaxClip))),
    (part(FakeTernary), part(TernaryGroups)),
    (part(FakeBinary, group_size=64), part(BinaryGroups, group_size=64)),
    (part(FakeFloat8), part(FP8)),
    (
        part(FakeQuant, codec=part(IntRows, bits=8, multiple=4, clip=part(MaxClip))),
        part(IntRows, bits=8, multiple=4, clip=part(MaxClip)),
    ),
    (
        part(FakeQuant, codec=part(IntRows, scales=part(LogScale), clip=part(MaxClip))),
        part(IntRows, scales=part(LogScale), clip=part(MaxClip)),
    ),
    (part(FakeQuant, codec=part(IntRows, bits=4, clip=part(MaxClip))), part(PackedInt4)),
    (part(FakeTernary), part(TernaryGroups, packing="bitmask")),
    (part(FakeQuant, codec=part(PackedInt4)), part(PackedInt4)),
    (part(FakeQuant, codec=part(IntRows, prune=0.03)), part(IntRows, prune=0.03, solver=part(GPTQ))),
    (part(FakeQuant, codec=part(IntRows)), part(LQER, codec=part(IntRows, solver=part(GPTQ)))),
]
WRONG: list[tuple[Spec[WeightTransform], Spec[Codec]]] = [
    (part(FakeQuant, codec=part(IntRows, bits=6, clip=part(MaxClip))), part(IntRows, bits=5, clip=part(MaxClip))),
    (part(FakeQuant, codec=part(IntRows, bits=6, clip=part(MaxClip))), part(IntRows, bits=6)),
    (part(FakeQuant, codec=part(IntRows, clip=part(SdClip, k=10))), part(IntRows, clip=part(SdClip, k=12.85))),
    (part(FakeQuant, codec=part(IntRows, min_step=1 / 31, clip=part(MaxClip))), part(IntRows, clip=part(MaxClip))),
    (part(FakeQuant, codec=part(IntRows, full_range=True, clip=part(MaxClip))), part(IntRows, clip=part(MaxClip))),
    (part(FakeQuant, codec=part(IntRows, clip=part(MaxClip))), part(Float, dtype="float16")),
    (part(FakeTernary), part(BinaryGroups)),
    (part(FakeTernary), part(TernaryGroups, group_size=64)),
    (part(FakeFloat8), part(Float, dtype="float16")),
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
        part(IntRows, scales=part(LogScale, steps_per_doubling=8), clip=part(MaxClip)),
    ),
    (part(FakeQuant, codec=part(IntRows, clip=part(MaxClip))), part(IntRows, clip=part(MaxClip), prune=0.03)),
    (part(FakeQuant, codec=part(IntRows, clip=part(MaxClip))), part(PackedInt4)),
]


def found(view: Spec[WeightTransform], codec: Spec[Codec], layers: str = "*") -> list[str]:
    rules = (part(Rule, where="matrix", use=codec), part(Rule, where="*", use=part(Float, dtype="float16")))
    spec = toy_model().edit("block.mlp.linear", append(weight_transforms=only(layers, view)))
    return qat_mismatches(build_on_meta(spec, VOCAB), rules)


@pytest.mark.parametrize(("view", "codec"), FINE, ids=repr)
def test_views_and_codecs_that_agree(view: Spec[WeightTransform], codec: Spec[Codec]) -> None:
    assert found(view, codec) == []


@pytest.mark.parametrize(("view", "codec"), WRONG, ids=repr)
def test_views_and_codecs_that_do_not(view: Spec[WeightTransform], codec: Spec[Codec]) -> None:
    (line,) = found(view, codec)
    assert line.startswith("blocks.0.mlp.up.weight and 5 more: ")
    assert view.cls.__name__ in line and codec.cls.__name__ in line  # type: ignore[union-attr]


def test_one_line_for_each_kind_of_disagreement() -> None:
    view, codec = WRONG[0]
    assert found(view, codec, layers="2") == [
        line.replace("blocks.0", "blocks.2").replace(" 5 more", " 1 more") for line in found(view, codec)
    ]
    assert qat_mismatches(build_on_meta(toy_model(), VOCAB), (part(Rule, where="*", use=codec),)) == []


def test_the_difference_is_named() -> None:
    codec = part(IntRows, bits=8, multiple=4, clip=part(MaxClip), prune=0.03, scales=part(LogScale))
    (line,) = found(part(FakeQuant, codec=part(IntRows, bits=8, clip=part(SdClip, k=9.0))), codec)
    assert "FakeQuant of int8, SdClip(k=9.0), stored" in line
    assert line.endswith(
        "IntRows of int8, multiples of 4, steps in LogScale(steps_per_doubling=16), MaxClip(), 0.03 of the weights pruned"
    )


@pytest.mark.parametrize("clip", [MaxClip, QuantileClip, SdClip, HessianSdClip, SearchClip])
@pytest.mark.parametrize("scales", [Float16Scale, Float32Scale, LogScale])
def test_formats_are_named_as_a_recipe_writes_them(clip: type[Clip], scales: type[ScaleFormat]) -> None:
    """Requires that parts store each setting under the name of its argument."""
    codec = part(IntRows, bits=8, clip=part(clip), scales=part(scales))
    (line,) = found(part(FakeQuant, codec=part(IntRows, bits=7)), codec)
    assert f", {part(clip)!r}" in line.rpartition("stored by ")[2]
    assert scales is Float16Scale or f", steps in {part(scales)!r}" in line
