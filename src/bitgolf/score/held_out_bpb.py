"""Bits per byte of model weights on held-out text: validation during training, and the commands `doctor` and `sweep`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgolf.model.lm import LM
from bitgolf.model.parameters import load_weights
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bitgolf.score.callbacks import ProgressCallback
from bitgolf.score.execution.forward import kernel_selector
from bitgolf.score.methods import ScoringMethod
from bitgolf.score.player import StaticPlayer
from bitgolf.score.referee import Score, score
from bitgolf.score.rope_scaling import active_rope_scaling
from bitgolf.score.text import TokenizedText

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 4_096, 32_768
"""Tokens that are scored at once."""


class HeldOutBpb:
    """Scores weights on the first `tokens` targets of a text, without adaptation.

    model: used only by this object; weights are copied into it. distributed: all its processes make the same calls and
    get the same scores, each of a part of the text.
    """

    def __init__(
        self,
        model: LM,
        text: TokenizedText,
        method: ScoringMethod,
        device: Device,
        tokens: int,
        distributed: DistributedContext = SINGLE_PROCESS,
    ) -> None:
        self.bytes_per_token = text.bytes / text.num_targets
        self.model, self.text, self.method, self.device = model, text.head(tokens), method, device
        self.targets, self.distributed = self.text.num_targets, distributed
        self._player: StaticPlayer | None = None
        self._parameters: dict[str, Tensor] = {}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy weights into the model. The first call also moves it to the device, and chooses its kernels there."""
        if self._player:
            with torch.no_grad():
                for path, parameter in self._parameters.items():
                    parameter.copy_(weights[path])
            return
        load_weights(self.model, {path: w.detach().clone() for path, w in weights.items()})
        self.model.to(self.device.torch_device)
        self._parameters = dict(self.model.named_parameters())  # before kernels replace parts
        scaling = self.method.rope_scaling
        self._player = StaticPlayer(
            self.model,
            self.model.embed.weight.shape[0],
            self.device,
            longest=self.method.window,
            distributed=self.distributed,
            kernels=kernel_selector(self.device),
            rope_scaling=scaling and active_rope_scaling(self.model, scaling),
        )

    def score_loaded(
        self,
        *,
        progress: ProgressCallback | None = None,
        charges: NDArray[np.float64] | None = None,
        targets: int | None = None,
    ) -> Score:
        """Score the weights that were loaded last. charges: as in `referee.score`. targets: only the first ones."""
        assert self._player, "no weights were loaded"
        batch_tokens = CPU_BATCH_TOKENS if self.device.torch_device.type == "cpu" else GPU_BATCH_TOKENS
        return score(
            self._player,
            self.text if targets is None else self.text.head(targets),
            self.method,
            distributed=self.distributed,
            batch_tokens=batch_tokens,
            progress=progress,
            charges=charges,
        )

    def bpb_by_window(self, weights: Mapping[str, Tensor]) -> NDArray[np.float64]:
        """Contribution of each window of targets to the bits per byte, float64 (windows,); the sum is the bpb.

        For a single process.
        """
        self.load(weights)
        charges = np.zeros(self.targets)
        self.score_loaded(charges=charges)
        starts = range(0, self.targets, self.method.window)
        return np.add.reduceat(charges, starts) / (self.targets * self.bytes_per_token)

    def bpb(self, weights: Mapping[str, Tensor]) -> float:
        """Bits per byte with these weights."""
        self.load(weights)
        return self.score_loaded().bpb
