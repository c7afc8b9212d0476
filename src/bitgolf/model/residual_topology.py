"""Residual topologies: attention and MLP one after the other, in parallel, or on two streams (lanes) of their own."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import Place
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.block import Block, Wiring
from bitgolf.model.forward_context import Bus
from bitgolf.model.interfaces import Skip, Stream, pair
from bitgolf.model.part import layer_set

Final = Literal["mean", "attn", "mlp"]


def enter(block: Block, x: Tensor, bus: Bus) -> Tensor:
    """What a branch of the block reads of the stream x (B, T, D), before its norm."""
    for p in block.enter:
        x = p(x, bus)
    return x


@register
class Serial(Wiring):
    """The second branch reads what the first has written."""

    def forward(self, x: Stream, bus: Bus, block: Block) -> Stream:
        return block(x, bus)


@register
class Parallel(Wiring):
    """x + Attention(norm(x)) + MLP(norm(x)) in these layers, one after the other elsewhere.

    The form of GPT-J (Wang and Komatsuzaki 2021; Parameter Golf #1412, #1493). It has no parameters.
    """

    def __init__(self, at: Place, /, *, layers: str = "7-10") -> None:
        super().__init__()
        self.layers = layer_set(layers, at.layers)

    def forward(self, x: Stream, bus: Bus, block: Block) -> Stream:
        if block.layer not in self.layers:
            return block(x, bus)
        assert isinstance(x, Tensor)  # one stream: no other topology opens lanes
        x = enter(block, x, bus)
        x = x + block.mix(x, bus) + block.feed(x)
        for p in block.leave:
            x = p(x, bus)
        return x


class Lanes(Wiring):
    """Two streams from layer `start` on, one read by attention and one by the MLP.

    Each layer has weights for what a branch writes into either lane, post (L, 2, 2) = [branch, lane], started at 1,
    and for what stays, resid (L, 2). Layers before `start` have them too, unused: so the published counts have it.
    With `rows` only the last so many layers have them (#1204 counted its layers without the repeats); 0 is all.
    At the end the lanes' mean goes on, or one of them. Once open, lanes stay open, also in earlier layers of a loop.
    """

    roles = {"post": "scale", "resid": "scale"}

    def __init__(self, at: Place, start: int, final: Final, rows: int, resid: float) -> None:
        super().__init__()
        rows = rows or at.layers
        if not 0 <= at.layers - rows <= start < at.layers:
            cause = f"lanes cannot start at layer {start} of {at.layers} with weights for the last {rows}"
            raise RecipeError(cause, place="depth.wiring.start")
        self.start, self.final, self.without = start, final, at.layers - rows
        self.post = nn.Parameter(torch.ones(rows, 2, 2))
        self.resid = nn.Parameter(torch.full((rows, 2), resid))

    def weights(self, block: Block, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """post (2, 2) and resid (2) of a block in this type; the first layer's serve those of a loop that have none."""
        row = max(block.layer - self.without, 0)
        return self.post[row].to(kind), self.resid[row].to(kind)

    def open(self, x: Stream, block: Block) -> Stream:
        """The stream as this block takes it: two lanes, both as the one was, where they begin."""
        if isinstance(x, tuple) or block.layer < self.start:
            return x
        if len(block.leave):
            raise RecipeError("a block with two lanes has no place for `leave`", place="model.block.leave")
        return x, x

    def forward(self, x: Stream, bus: Bus, block: Block) -> Stream:
        x = self.open(x, block)
        return self.step(*x, bus, block) if isinstance(x, tuple) else block(x, bus)

    def step(self, a: Tensor, b: Tensor, bus: Bus, block: Block) -> Stream:
        """One visit: attention's lane a and the MLP's b, both (B, T, D)."""
        raise NotImplementedError

    def close(self, x: Stream) -> Tensor:
        a, b = pair(x)
        return 0.5 * (a + b) if self.final == "mean" else (a if self.final == "attn" else b)


@register
class TwoLanes(Lanes):
    """Both branches read before either writes: Parameter Golf #1530 to #1855.

    Attention reads its lane as the chain `enter` leaves it, the MLP its own lane as it is. resid starts at 1.1 and has
    one weight a lane. Skips go into attention's lane only.
    """

    def __init__(self, at: Place, /, *, start: int = 8, final: Final = "mean", rows: int = 0) -> None:
        super().__init__(at, start, final, rows, 1.1)

    def step(self, a: Tensor, b: Tensor, bus: Bus, block: Block) -> Stream:
        post, resid = self.weights(block, a.dtype)
        mixed, fed = block.mix(enter(block, a, bus), bus), block.feed(b)
        return (
            resid[0] * a + post[0, 0] * mixed + post[1, 0] * fed,
            resid[1] * b + post[0, 1] * mixed + post[1, 1] * fed,
        )

    def blend(self, x: Stream, skip: Skip, value: Stream, j: int, block: Block) -> Stream:
        x, value = self.open(x, block), pair(value)[0]
        return (skip(x[0], value, j), x[1]) if isinstance(x, tuple) else skip(x, value, j)


@register
class TwoLanesInTurn(Lanes):
    """Attention writes before the MLP reads: Parameter Golf #1204.

    Both read their lane as the chain `enter` leaves it. resid starts at sqrt(1.1) and has one weight a branch, for
    both lanes, so that a layer multiplies them by 1.1. Skips go into both lanes.
    """

    def __init__(self, at: Place, /, *, start: int = 7, final: Final = "mean", rows: int = 0) -> None:
        super().__init__(at, start, final, rows, 1.1**0.5)

    def step(self, a: Tensor, b: Tensor, bus: Bus, block: Block) -> Stream:
        post, resid = self.weights(block, a.dtype)
        mixed = block.mix(enter(block, a, bus), bus)
        a, b = resid[0] * a + post[0, 0] * mixed, resid[0] * b + post[0, 1] * mixed
        bus.visit += 1  # `enter` runs again: parts that remember tell its two readings apart by the visit
        fed = block.feed(enter(block, b, bus))
        return resid[1] * a + post[1, 0] * fed, resid[1] * b + post[1, 1] * fed
