"""Views that round weights: other settings than the defaults, and groups that do not divide the toy's matrices."""

from __future__ import annotations

from typing import Any

from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip, SdClip
from bitgolf.model.mlp import LeakySquared
from bitgolf.model.qat import FakeQuant, NoisyQuant, SoftRound
from bitgolf.model.qat_lowbit import Binary, Normed, Ternary
from bitgolf.quantize.codecs.codec import IntRows

EXAMPLES: dict[type, Spec[Any]] = {
    FakeQuant: part(FakeQuant, codec=part(IntRows, bits=4, clip=part(SdClip))),
    NoisyQuant: part(NoisyQuant, codec=part(IntRows, bits=8, clip=part(MaxClip))),
    SoftRound: part(SoftRound, codec=part(IntRows, bits=6, clip=part(MaxClip))),
    Ternary: part(Ternary, group=100),
    Binary: part(Binary, group=100),
    Normed: part(Normed, act=part(LeakySquared)),
}
