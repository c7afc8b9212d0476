"""Views that round weights: other settings than the defaults, and groups that do not divide the toy's matrices."""

from __future__ import annotations

from typing import Any

from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import SdClip
from bitgolf.model.mlp import LeakySquared
from bitgolf.model.qat import FakeQuant
from bitgolf.model.qat_lowbit import Binary, Normed, Ternary

EXAMPLES: dict[type, Spec[Any]] = {
    FakeQuant: part(FakeQuant, bits=4, clip=part(SdClip)),
    Ternary: part(Ternary, group=100),
    Binary: part(Binary, group=100),
    Normed: part(Normed, act=part(LeakySquared)),
}
