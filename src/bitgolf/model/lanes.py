"""Wirings where attention and MLP do not wait for each other, or write to streams of their own."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from bitgolf.errors import RecipeError
from bitgolf.model.core import Bus, layer_set
from bitgolf.model.skeleton import Block
from bitgolf.model.sockets import Skip, Wiring
from bitgolf.spec import Place, register

Final = Literal["mean", "attn", "mlp"]


def enter(block: Block, x: Tensor, bus: Bus) -> Tensor:
    """What a branch of the block reads of the stream x (B, T, D), before its norm."""
    for p in block.enter:
        x = p(x, bus)
    return x


@register
class Parallel(Wiring):
    """x + Attention(norm(x)) + MLP(norm(x)) in these layers, one after the other elsewhere.

    The form of GPT-J (Wang and Komatsuzaki 2021; Parameter Golf #1412, #1493). It has no parameters.
    """

    def __init__(self, at: Place, /, *, layers: str = "7-10") -> None:
        super().__init__()
        self.layers = layer_set(layers, at.layers)

    def forward(self, x: Tensor, bus: Bus, block: nn.Module) -> Tensor:
        block = cast(Block, block)
        if block.layer not in self.layers:
            return block(x, bus)
        x = enter(block, x, bus)
        x = x + block.mix(x, bus) + block.feed(x)
        for p in block.leave:
            x = p(x, bus)
        return x


class Lanes(Wiring):
    """Two streams from layer `start` on, one read by attention and one by the MLP: x becomes (2, B, T, D).

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

    def weights(self, block: Block) -> tuple[Tensor, Tensor]:
        """post (2, 2) and resid (2) of a block; the first layer's serve those of a loop that have none."""
        row = max(block.layer - self.without, 0)
        return self.post[row], self.resid[row]

    def open(self, x: Tensor, block: nn.Module) -> Tensor:
        """The stream as this block takes it: two lanes, both as the one was, where they begin."""
        block = cast(Block, block)
        if x.ndim > 3 or block.layer < self.start:
            return x
        if len(block.leave):
            raise RecipeError("a block with two lanes has no place for `leave`", place="model.block.leave")
        return torch.stack([x, x])

    def forward(self, x: Tensor, bus: Bus, block: nn.Module) -> Tensor:
        x = self.open(x, block)
        return self.step(x, bus, cast(Block, block)) if x.ndim > 3 else block(x, bus)

    def step(self, x: Tensor, bus: Bus, block: Block) -> Tensor:
        """One visit, x (2, B, T, D): attention's lane, then the MLP's."""
        raise NotImplementedError

    def close(self, x: Tensor) -> Tensor:
        return x.mean(0) if self.final == "mean" else x[("attn", "mlp").index(self.final)]


def by_lane(weights: Tensor) -> Tensor:
    """(2) -> (2, 1, 1, 1), to multiply lanes."""
    return weights[:, None, None, None]


@register
class TwoLanes(Lanes):
    """Both branches read before either writes: Parameter Golf #1530 to #1855.

    Attention reads its lane as the chain `enter` leaves it, the MLP its own lane as it is. resid starts at 1.1 and has
    one weight a lane. Skips go into attention's lane only.
    """

    def __init__(self, at: Place, /, *, start: int = 8, final: Final = "mean", rows: int = 0) -> None:
        super().__init__(at, start, final, rows, 1.1)

    def step(self, x: Tensor, bus: Bus, block: Block) -> Tensor:
        post, resid = self.weights(block)
        mixed, fed = block.mix(enter(block, x[0], bus), bus), block.feed(x[1])
        return by_lane(resid) * x + by_lane(post[0]) * mixed + by_lane(post[1]) * fed

    def blend(self, x: Tensor, skip: Skip, value: Tensor, j: int, block: nn.Module) -> Tensor:
        x = self.open(x, block)
        value = value[0] if value.ndim > 3 else value
        return torch.stack([skip(x[0], value, j), x[1]]) if x.ndim > 3 else skip(x, value, j)


@register
class TwoLanesInTurn(Lanes):
    """Attention writes before the MLP reads: Parameter Golf #1204.

    Both read their lane as the chain `enter` leaves it. resid starts at sqrt(1.1) and has one weight a branch, for
    both lanes, so that a layer multiplies them by 1.1. Skips go into both lanes.
    """

    def __init__(self, at: Place, /, *, start: int = 7, final: Final = "mean", rows: int = 0) -> None:
        super().__init__(at, start, final, rows, 1.1**0.5)

    def step(self, x: Tensor, bus: Bus, block: Block) -> Tensor:
        post, resid = self.weights(block)
        x = resid[0] * x + by_lane(post[0]) * block.mix(enter(block, x[0], bus), bus)
        bus.visit += 1  # `enter` runs again: parts that remember tell its two readings apart by the visit
        return resid[1] * x + by_lane(post[1]) * block.feed(enter(block, x[1], bus))
