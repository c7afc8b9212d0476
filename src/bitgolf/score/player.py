"""Players: what the referee may ask of a model, and the model of an artifact as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bitgolf.model.attention.rope_scaling import Scaling
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import ALONE, World
from bitgolf.score.execution.async_copy import upload
from bitgolf.score.execution.forward import Forward, forward_of


class Block(NamedTuple):
    """What is shown at once: a window of a text in each row. Row r goes on with the text it had, until it is `fresh`.

    tokens: (B, T) int64, already revealed, zeros behind the end of a row's window; asked: (B, T) bool, where the token
    after is asked for, in a row always the last ones of its window; fresh: (B,) bool, another text begins in this row.
    opens: a track begins, which any process may play: nothing that was kept of texts before it may count.
    """

    tokens: Tensor
    asked: Tensor
    fresh: Tensor
    opens: bool = False

    @classmethod
    def of(cls, windows: Sequence[tuple[Tensor, int]], fresh: Tensor, opens: bool = False) -> Block:
        """Side by side: each row's window, (n,) tokens, and after how many of its last ones the next is asked for."""
        size = len(windows), max(len(tokens) for tokens, _ in windows)
        shown, asked = torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.bool)
        for i, (tokens, last) in enumerate(windows):
            shown[i, : len(tokens)] = tokens
            asked[i, len(tokens) - last : len(tokens)] = True
        return cls(shown, asked, fresh, opens)

    @property
    def places(self) -> Tensor:
        """Where the block asks, as indices of its flattened tokens: (n,), for a block on the CPU."""
        return self.asked.flatten().nonzero()[:, 0]

    def to(self, device: torch.device) -> Block:
        tokens, asked, fresh = (upload(part, device) for part in (self.tokens, self.asked, self.fresh))
        return Block(tokens, asked, fresh, self.opens)


class Player(Protocol):
    """Predicts from tokens that are already revealed; never sees a target before it is scored, a loss or a byte count."""

    vocab: int

    def predict(self, block: Block) -> Tensor:
        """Logits over the whole vocabulary wherever `block.asked`, row by row: (n, V)."""
        ...

    def observe(self, block: Block, targets: Tensor) -> None:
        """The n tokens that were asked for, now scored: (n,). What is learned of them may serve later blocks."""
        ...

    def adapt(self, revealed: Tensor) -> None:
        """A section of the text, (n,), all of whose tokens but the first have been scored: by other processes too."""
        ...

    def close(self) -> None:
        """Scoring is over, also where it failed: the model is left as it was found. Whoever made the player calls it."""
        ...


class StaticPlayer:
    """A model that does not change while it is scored.

    longest: tokens of the windows that it will be shown, 0 if not known. Every process of `world` makes one together.
    rope_scaling: of rotary positions, in place of the model's own.
    """

    def __init__(
        self,
        model: LM,
        vocab: int,
        device: Device,
        *,
        longest: int = 0,
        world: World = ALONE,
        rope_scaling: Scaling | None = None,
        forward: Forward | None = None,
    ) -> None:
        self.model = model.to(device.device).eval()
        self.vocab, self.device = vocab, device
        self.forward = forward or forward_of(self.model, device, longest, world=world, rope_scaling=rope_scaling)

    @torch.no_grad()
    def predict(self, block: Block) -> Tensor:
        return self.forward(block.tokens, block.places)

    def observe(self, block: Block, targets: Tensor) -> None:
        pass

    def adapt(self, revealed: Tensor) -> None:
        pass

    def close(self) -> None:
        self.forward.close()


class HasForward(Protocol):
    """What the forwards of all our players have in common, see `forward.Forward`."""

    @property
    def kernels(self) -> Sequence[str]: ...

    @property
    def seconds(self) -> float: ...

    def limit(self, tokens: int) -> None: ...


def forward_in(player: Player) -> HasForward | None:
    """The forward of a player of ours, for results to name its kernels; None for one that has none."""
    return getattr(player, "forward", None)
