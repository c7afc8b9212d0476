"""Views that round weights: other settings than the defaults, and groups that do not divide the toy's matrices."""

from __future__ import annotations

from typing import Any

from bitgolf.grids.clip import SdClip
from bitgolf.model.fake import FakeQuant
from bitgolf.model.lowbit import Binary, Normed, Ternary
from bitgolf.model.mlp import LeakySquared
from bitgolf.spec import Spec, part

EXAMPLES: dict[type, Spec[Any]] = {
    FakeQuant: part(FakeQuant, bits=4, clip=part(SdClip)),
    Ternary: part(Ternary, group=100),
    Binary: part(Binary, group=100),
    Normed: part(Normed, act=part(LeakySquared)),
}
