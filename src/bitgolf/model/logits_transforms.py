"""Logits transforms: caps that bound the logits, and a bias."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Finite, Positive
from bitgolf.config.registry import register
from bitgolf.model.interfaces import LogitsTransform


@register
class Softcap(LogitsTransform):
    """c tanh(z / c), so that |logit| < c (Gemma 2, arXiv 2408.00118).

    Up to the constant c, which does not change the softmax, it equals 2c sigmoid(2z / c), that is,
    `SigmoidCap(scale=2c, shift=0, width=c/2)`.
    """

    def __init__(self, context: BuildContext, /, *, cap: Positive = 30.0) -> None:
        super().__init__()
        self.cap = cap

    def forward(self, z: Tensor) -> Tensor:
        return self.cap * torch.tanh(z / self.cap)


@register
class SigmoidCap(LogitsTransform):
    """scale * sigmoid((z + shift) / width), in (0, scale): the cap of the modded-nanogpt speedrun.

    It is asymmetric, with its largest slope at z = -shift. With the default settings, logits far above 0 are compressed
    more than others.
    """

    def __init__(
        self, context: BuildContext, /, *, scale: Positive = 23.0, shift: Finite = 5.0, width: Positive = 7.5
    ) -> None:
        super().__init__()
        self.scale, self.shift, self.width = scale, shift, width

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * torch.sigmoid((z + self.shift) / self.width)


@register
class QuinticCap(LogitsTransform):
    """c clip(u (1 - u^2/3 + u^4/15), -1, 1) with u = clip(z / c, -2, 2): Parameter Golf #640, used there with `ZLoss`.

    The polynomial reaches 1 at u = 1.690 (and 22/15 at 2), so for |z| >= 1.690 c the output is exactly c or -c and its
    gradient is zero. Such a logit cannot leave saturation through its own gradient.
    """

    def __init__(self, context: BuildContext, /, *, cap: Positive = 10.0) -> None:
        super().__init__()
        self.cap = cap

    def forward(self, z: Tensor) -> Tensor:
        u = (z / self.cap).clamp(-2.0, 2.0)
        square = u * u
        return self.cap * (u * (1.0 - square / 3.0 + square * square / 15.0)).clamp(-1.0, 1.0)


@register
class VocabBias(LogitsTransform):
    """z + b with a learned b (V,), initialized to 0: Parameter Golf #640, where it is placed before the cap."""

    roles = {"weight": "scale"}
    identity_at_init = True

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(context.vocab))

    def forward(self, z: Tensor) -> Tensor:
        return z + self.weight.to(z.dtype)
