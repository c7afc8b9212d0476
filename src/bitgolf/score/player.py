"""Players: the interface between the referee and a model, and the player of a model that does not adapt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from bitgolf.errors import UsageError
from bitgolf.model.attention.rope_scaling import RoPEScaling
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bitgolf.score.execution.async_copy import copy_to_device
from bitgolf.score.execution.forward import Forward, LogitsForward, SelectKernels, make_forward
from bitgolf.score.execution.incremental_forward import IncrementalForward


class ScoringBatch(NamedTuple):
    """One window of a text in each of B rows. A row continues its previous text unless `reset_rows` is set.

    tokens: (B, T) int64, already revealed, zero-padded after the end of a row's window.
    target_mask: (B, T) bool, positions whose next token is to be predicted: the last ones of each window.
    reset_rows: (B,) bool, rows in which another text begins.
    reset_all: whether a `TextBatch` begins. Any process may score it, so state from earlier batches must not be used.
    """

    tokens: Tensor
    target_mask: Tensor
    reset_rows: Tensor
    reset_all: bool = False

    @classmethod
    def collate(
        cls, windows: Sequence[tuple[Tensor, int]], reset_rows: Tensor, reset_all: bool = False
    ) -> ScoringBatch:
        """Pad windows to a batch. windows: for each row its tokens (n,) and the number of targets at its end."""
        size = len(windows), max(len(tokens) for tokens, _ in windows)
        padded, target_mask = torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.bool)
        for i, (tokens, targets) in enumerate(windows):
            padded[i, : len(tokens)] = tokens
            target_mask[i, len(tokens) - targets : len(tokens)] = True
        return cls(padded, target_mask, reset_rows, reset_all)

    @property
    def target_indices(self) -> Tensor:
        """Indices (n,) of the set positions in the flattened `target_mask`, which must be on the CPU."""
        return self.target_mask.flatten().nonzero()[:, 0]

    def to(self, device: torch.device) -> ScoringBatch:
        tokens, target_mask, reset_rows = (
            copy_to_device(part, device) for part in (self.tokens, self.target_mask, self.reset_rows)
        )
        return ScoringBatch(tokens, target_mask, reset_rows, self.reset_all)


class AdaptationStep(NamedTuple):
    """The adaptation step after a section of a text: step `number`, counted from 0, of `steps`.

    It reveals nothing about the targets: a decoder knows the number of sections in advance, from the size of the text.
    """

    number: int = 0
    steps: int = 1

    @property
    def last(self) -> bool:
        """Whether this is the last section. No section follows, so adapting to it would have no effect."""
        return self.number == self.steps - 1


class Player(Protocol):
    """A model as the referee uses it. It receives only revealed tokens: no unscored target, no loss, no byte count."""

    vocab: int

    @property
    def forward(self) -> Forward | None:
        """The model's forward, from which results take the names of the kernels; None for a player without one."""
        ...

    def predict(self, block: ScoringBatch) -> Tensor:
        """Logits (n, V) over the whole vocabulary at the n positions of `block.target_mask`, row by row."""
        ...

    def observe(self, block: ScoringBatch, targets: Tensor) -> None:
        """Receive the targets (n,) of the last predicted batch, now scored. They may be used for later batches."""
        ...

    def adapt(self, revealed: Tensor, step: AdaptationStep) -> None:
        """Adapt to a section of the text, tokens (n,). All but the first were scored, by this or another process."""
        ...

    def close(self) -> None:
        """Restore the model. The creator of the player calls this when scoring has ended, also after an error."""
        ...


@runtime_checkable
class CodingPlayer(Player, Protocol):
    """A player whose probabilities a decoder can compute, which knows no target before it has decoded it."""

    def predict_next(self, block: ScoringBatch, *, begin: bool) -> Tensor:
        """Logits (n, V) of the next token of each of n rows, those with a target in `block`, which have one each.

        Called in place of `predict`, once for each target of the windows of a step: the windows grow by a token at a
        time, and the earlier targets are in `block.tokens`. `observe` follows with the whole windows and all their
        targets, as after `predict`. begin: whether new windows begin; `reset_rows` and `reset_all` are set then only.
        The logits are those of `predict` up to rounding.
        """
        ...


def coding_player(player: Player) -> CodingPlayer:
    """The player itself. Raises `UsageError` if it cannot predict token by token."""
    if isinstance(player, CodingPlayer):
        return player
    cause = f"{type(player).__name__} has no `predict_next`, so a decoder cannot compute its probabilities"
    raise UsageError(cause, where="compress", hint="choose another method with --with, or add `predict_next` to it")


class StaticPlayer:
    """A model that does not change while it is scored.

    longest: maximum tokens of a window, 0 if not known. kernels: selects fused kernels on CUDA.
    distributed: all its processes must create their players together, since they select kernels together.
    rope_scaling: replaces the model's own scaling of rotary positions.
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
        self.vocab, self.device, self.longest, self.rope_scaling = vocab, device, longest, rope_scaling
        self._incremental: IncrementalForward | None = None
        self.forward: LogitsForward = forward or make_forward(
            self.model, device, longest, distributed=distributed, kernels=kernels, rope_scaling=rope_scaling
        )

    @torch.no_grad()
    def predict(self, block: ScoringBatch) -> Tensor:
        return self.forward(block.tokens, block.target_indices)

    def predict_next(self, block: ScoringBatch, *, begin: bool) -> Tensor:
        if self._incremental is None:
            self._incremental = IncrementalForward(self.model, self.longest, self.rope_scaling)
        return self._incremental(block, begin=begin)

    def observe(self, block: ScoringBatch, targets: Tensor) -> None:
        pass

    def adapt(self, revealed: Tensor, step: AdaptationStep) -> None:
        pass

    def close(self) -> None:
        self.forward.close()
