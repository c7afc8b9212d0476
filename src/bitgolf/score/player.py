"""Players: what the referee may ask of a model, and the model of an artifact as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bitgolf.model.attention.rope_scaling import RoPEScaling
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bitgolf.score.execution.async_copy import copy_to_device
from bitgolf.score.execution.forward import Forward, LogitsForward, SelectKernels, make_forward


class ScoringBatch(NamedTuple):
    """What is shown at once: a window of a text in each row. Row r goes on with the text it had, until it is `reset_rows`.

    tokens: (B, T) int64, already revealed, zeros behind the end of a row's window; asked: (B, T) bool, where the token
    after is asked for, in a row always the last ones of its window; fresh: (B,) bool, another text begins in this row.
    opens: a track begins, which any process may play: nothing that was kept of texts before it may count.
    """

    tokens: Tensor
    target_mask: Tensor
    reset_rows: Tensor
    reset_all: bool = False

    @classmethod
    def collate(cls, windows: Sequence[tuple[Tensor, int]], fresh: Tensor, reset_all: bool = False) -> ScoringBatch:
        """Side by side: each row's window, (n,) tokens, and after how many of its last ones the next is asked for."""
        size = len(windows), max(len(tokens) for tokens, _ in windows)
        shown, asked = torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.bool)
        for i, (tokens, last) in enumerate(windows):
            shown[i, : len(tokens)] = tokens
            asked[i, len(tokens) - last : len(tokens)] = True
        return cls(shown, asked, fresh, reset_all)

    @property
    def target_indices(self) -> Tensor:
        """Where the block asks, as indices of its flattened tokens: (n,), for a block on the CPU."""
        return self.target_mask.flatten().nonzero()[:, 0]

    def to(self, device: torch.device) -> ScoringBatch:
        tokens, asked, fresh = (
            copy_to_device(part, device) for part in (self.tokens, self.target_mask, self.reset_rows)
        )
        return ScoringBatch(tokens, asked, fresh, self.reset_all)


class AdaptationStep(NamedTuple):
    """The step after a section of a text: the `number`-th, from 0, of `steps`.

    The referee passes it on, so that a player counts nothing. It is no information about the targets: a decoder knows
    the number of sections in advance, from the size of the text.
    """

    number: int = 0
    steps: int = 1

    @property
    def last(self) -> bool:
        """Whether no section follows, so that nothing more needs to be learned."""
        return self.number == self.steps - 1


class Player(Protocol):
    """Predicts from tokens that are already revealed; never sees a target before it is scored, a loss or a byte count."""

    vocab: int

    @property
    def forward(self) -> Forward | None:
        """The model's forward, for results to name its kernels; None for a player without one."""
        ...

    def predict(self, block: ScoringBatch) -> Tensor:
        """Logits over the whole vocabulary wherever `block.asked`, row by row: (n, V)."""
        ...

    def observe(self, block: ScoringBatch, targets: Tensor) -> None:
        """The n tokens that were asked for, now scored: (n,). What is learned of them may serve later blocks."""
        ...

    def adapt(self, revealed: Tensor, step: AdaptationStep) -> None:
        """A section of the text, (n,), all of whose tokens but the first have been scored: by other processes too."""
        ...

    def close(self) -> None:
        """Scoring is over, also where it failed: the model is left as it was found. Whoever made the player calls it."""
        ...


class StaticPlayer:
    """A model that does not change while it is scored.

    longest: tokens of the windows that it will be shown, 0 if not known. kernels: selects fused kernels on CUDA. Every
    process of `distributed` makes one together. rope_scaling: of rotary positions, in place of the model's own.
    """

    def __init__(
        self,
        model: LM,
        vocab: int,
        device: Device,
        *,
        longest: int = 0,
        distributed: DistributedContext = SINGLE_PROCESS,
        kernels: SelectKernels | None = None,
        rope_scaling: RoPEScaling | None = None,
        forward: LogitsForward | None = None,
    ) -> None:
        self.model = model.to(device.torch_device).eval()
        self.vocab, self.device = vocab, device
        self.forward: LogitsForward = forward or make_forward(
            self.model, device, longest, distributed=distributed, kernels=kernels, rope_scaling=rope_scaling
        )

    @torch.no_grad()
    def predict(self, block: ScoringBatch) -> Tensor:
        return self.forward(block.tokens, block.target_indices)

    def observe(self, block: ScoringBatch, targets: Tensor) -> None:
        pass

    def adapt(self, revealed: Tensor, step: AdaptationStep) -> None:
        pass

    def close(self) -> None:
        self.forward.close()
