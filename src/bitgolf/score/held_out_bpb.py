"""Bits per byte of model weights on held-out text, for the commands `doctor` and `sweep`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bitgolf.model.lm import LM
from bitgolf.model.parameters import load_weights
from bitgolf.runtime.device import Device
from bitgolf.score.execution.forward import kernel_selector
from bitgolf.score.methods import ScoringMethod
from bitgolf.score.player import StaticPlayer
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText


class HeldOutBpb:
    """Scores weights on the first `tokens` targets of a text, without adaptation.

    model: used only by this object; each call of `bpb_by_window` loads other weights into it.
    """

    def __init__(self, model: LM, text: TokenizedText, method: ScoringMethod, device: Device, tokens: int) -> None:
        self.bytes_per_token = text.bytes / text.num_targets
        self.model, self.text, self.method, self.device = model, text.head(tokens), method, device
        self.targets, self.kernels = self.text.num_targets, kernel_selector(device)

    def bpb_by_window(self, weights: Mapping[str, Tensor]) -> NDArray[np.float64]:
        """Contribution of each window of targets to the bits per byte, float64 (windows,); the sum is the bpb."""
        load_weights(self.model, dict(weights))
        charges, window = np.zeros(self.targets), self.method.window
        vocab = self.model.embed.weight.shape[0]
        player = StaticPlayer(self.model, vocab, self.device, longest=window, kernels=self.kernels)
        with closing(player):
            score(player, self.text, self.method, charges=charges)
        starts = range(0, self.targets, window)
        return np.add.reduceat(charges, starts) / (self.targets * self.bytes_per_token)

    def bpb(self, weights: Mapping[str, Tensor]) -> float:
        """Bits per byte with these weights."""
        return float(self.bpb_by_window(weights).sum())
