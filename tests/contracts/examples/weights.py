"""Examples of fake quantization, with settings other than the defaults and groups that do not divide the matrices."""

from __future__ import annotations

from typing import Any

from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip, SdClip
from bitgolf.model.grouped_linear import GroupedLinear
from bitgolf.model.mlp import SquaredLeakyReLU
from bitgolf.model.qat import FakeQuant, QuantNoise, SoftRoundQuant
from bitgolf.model.qat_lowbit import FakeBinary, FakeTernary, NormedActivation
from bitgolf.quantize.codecs.codec import IntRows

EXAMPLES: dict[type, Spec[Any]] = {
    FakeQuant: part(FakeQuant, codec=part(IntRows, bits=4, clip=part(SdClip))),
    QuantNoise: part(QuantNoise, codec=part(IntRows, bits=8, clip=part(MaxClip))),
    SoftRoundQuant: part(SoftRoundQuant, codec=part(IntRows, bits=6, clip=part(MaxClip))),
    FakeTernary: part(FakeTernary, group_size=100),
    FakeBinary: part(FakeBinary, group_size=100),
    GroupedLinear: part(GroupedLinear, groups=4),
    NormedActivation: part(NormedActivation, act=part(SquaredLeakyReLU)),
}
