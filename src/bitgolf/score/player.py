"""Players: what the referee may ask of a model, and the model of an artifact as one."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from bitgolf.model.skeleton import LM
from bitgolf.train.device import Device


class Player(Protocol):
    """Predicts from tokens that are already revealed; never sees a target, a loss or a byte count."""

    vocab: int

    def predict(self, tokens: Tensor, keep: int) -> Tensor:
        """Logits over the whole vocabulary after each of the last `keep` of T tokens: (B, T) -> (B, keep, V)."""
        ...

    def observe(self, tokens: Tensor) -> None:
        """Tokens that were just scored, in order: (n,)."""
        ...

    def adapt(self) -> None:
        """May learn from what was observed."""
        ...


class StaticPlayer:
    """A model that does not change while it is scored."""

    def __init__(self, model: LM, vocab: int, device: Device) -> None:
        self.model = model.to(device.device).eval()
        self.vocab, self.device = vocab, device

    @torch.no_grad()
    def predict(self, tokens: Tensor, keep: int) -> Tensor:
        with self.device.autocast():
            hidden = self.model.hidden(self.model.bus(tokens.to(self.device.device)))
            return self.model.logits(hidden[:, -keep:]).float()

    def observe(self, tokens: Tensor) -> None:
        pass

    def adapt(self) -> None:
        pass
