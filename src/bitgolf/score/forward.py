"""A model's forward for scoring: eager on the CPU; on CUDA with fused kernels, in one compiled graph for each shape."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.model.skeleton import LM
from bitgolf.score.graphs import Graph
from bitgolf.score.transfer import upload
from bitgolf.train.device import Device

SHORTEST = 64  # tokens: shorter rows are padded to as many


class Forward(Protocol):
    """From rows of tokens (B, T), and n places among the flattened ones (n,), both on the CPU, to logits (n, V)."""

    def __call__(self, tokens: Tensor, places: Tensor) -> Tensor: ...

    def close(self) -> None:
        """The model as it was found."""
        ...


def forward_of(model: LM, device: Device, longest: int) -> Forward:
    """What suits the device."""
    return Compiled(model, device, longest) if device.device.type == "cuda" else Eager(model, device)


class Eager:
    """Operator by operator, at the shapes that come. The reference."""

    def __init__(self, model: LM, device: Device) -> None:
        self.model, self.device = model, device

    def __call__(self, tokens: Tensor, places: Tensor) -> Tensor:
        tokens, places = (upload(x, self.device.device) for x in (tokens, places))
        with self.device.autocast():
            hidden = self.model.hidden(self.model.bus(tokens)).flatten(0, 1)
            return at_least_float32(self.model.logits(hidden[places]))

    def close(self) -> None:
        pass


class Compiled:
    """The same in graphs of few shapes.

    Rows are padded to `longest` tokens, or to a half, a quarter, … of it; and read so many at a time as the first block
    of that length suggests, the last ones with empty rows. Places are padded to a power of two. What pads is computed
    and left out: attention is causal, and rows do not see each other.
    """

    def __init__(self, model: LM, device: Device, longest: int) -> None:
        self.model, self.device, self.longest = model, device, longest
        self.rows: dict[int, int] = {}  # by length
        self.hidden = Graph(lambda tokens: model.hidden(model.bus(tokens)).flatten(0, 1), device.device)
        self.logits = Graph(lambda hidden, places: at_least_float32(model.logits(hidden[places])), device.device)

    def __call__(self, tokens: Tensor, places: Tensor) -> Tensor:
        length = padded_length(tokens.shape[1], self.longest)
        rows = self.rows.setdefault(length, power_of_two(tokens.numel() / length))
        places = places // tokens.shape[1] * length + places % tokens.shape[1]
        padding = (0, length - tokens.shape[1], 0, -len(tokens) % rows)
        shown = upload(F.pad(tokens, padding), self.device.device)
        asked = upload(F.pad(places, (0, power_of_two(len(places)) - len(places))), self.device.device)
        with self.device.autocast():
            hidden = torch.cat([self.hidden(part) for part in shown.split(rows)])
            return self.logits(hidden, asked)[: len(places)]

    @property
    def seconds(self) -> float:
        """Spent on making graphs."""
        return self.hidden.seconds + self.logits.seconds

    def close(self) -> None:
        pass


def at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def padded_length(length: int, longest: int) -> int:
    """The least of longest, its half, its quarter, … down to `SHORTEST`, that holds so many tokens."""
    padded = longest if length <= longest else power_of_two(length)
    while padded // 2 >= max(length, SHORTEST):
        padded //= 2
    return padded


def power_of_two(number: float) -> int:
    """The least power of two that is at least so much."""
    return 1 << max(0, int(-(-number // 1)) - 1).bit_length()
