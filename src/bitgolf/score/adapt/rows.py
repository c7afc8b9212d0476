"""The forward of rows that have adapters of their own: which rows are read, at which shapes, and with which kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.model.core import taking_gradients
from bitgolf.model.lora import Adapters
from bitgolf.model.skeleton import LM
from bitgolf.score.forward import at_least_float32, kernels_for, padded_length
from bitgolf.score.graphs import Graph
from bitgolf.score.player import Block
from bitgolf.score.transfer import upload
from bitgolf.train.device import Device
from bitgolf.world import World


class Shown(NamedTuple):
    """What is read of a block, on the CPU.

    rows: (R,) bool, those of all rows that tokens (b, T) holds, b of them. columns: (b, C), where in its row each row is
    asked, any where it is asked less often than C times. places: (n,), which of the b C columns count, row by row.
    """

    rows: Tensor
    tokens: Tensor
    columns: Tensor
    places: Tensor

    @classmethod
    def of(cls, block: Block, rows: Tensor, columns: int) -> Shown:
        """These rows of a block; the head's adapters know rows, so each row gets as many columns as any has."""
        asked = block.asked[rows]
        first, counts = asked.int().argmax(1), asked.sum(1)  # a row is asked at the end of its window
        ahead = torch.arange(columns)
        places = (ahead < counts[:, None]).flatten().nonzero()[:, 0]
        return cls(rows, block.tokens[rows], (first[:, None] + ahead).clamp(max=asked.shape[1] - 1), places)


class Rows:
    """From a block to logits (n, V) where it asks, with a graph back to the adapters if gradients are on.

    Eager, only rows that are asked for something, at the shapes that come: the reference.
    """

    kernels: Sequence[str] = ()

    def __init__(self, model: LM, device: Device, adapters: Adapters) -> None:
        self.model, self.device, self.adapters = model, device, adapters
        self.run: Callable[[Tensor, Tensor], Tensor] = self.read

    def __call__(self, block: Block) -> Tensor:
        rows, *parts = self.shown(block)
        tokens, columns, places = (upload(x, self.device.device) for x in parts)
        with (
            taking_gradients(self.model.parameters(), False),  # its own are constants of the graph
            self.adapters.holding(rows),
            self.device.autocast(),
        ):
            return self.run(tokens, columns).flatten(0, 1)[places]

    def shown(self, block: Block) -> Shown:
        return Shown.of(block, block.asked.any(1), int(block.asked.sum(1).max()))

    def read(self, tokens: Tensor, columns: Tensor) -> Tensor:
        """Tokens (b, T) and columns (b, C): logits (b, C, V)."""
        hidden = self.model.hidden(self.model.bus(tokens))
        hidden = hidden.gather(1, columns[..., None].expand(-1, -1, hidden.shape[-1]))
        return at_least_float32(self.model.logits(hidden))

    @property
    def seconds(self) -> float:
        """Spent on compiling so far."""
        return 0.0

    def close(self) -> None:
        """The model as it was found."""


class CompiledRows(Rows):
    """All rows, also those without a text, at four lengths and with one number of columns: a graph for each length.

    Lengths are the window, a half, a quarter and an eighth of it. Forward and backward are a graph each.
    """

    HALVINGS = 3

    def __init__(
        self, model: LM, device: Device, adapters: Adapters, *, window: int, columns: int, world: World
    ) -> None:
        super().__init__(model, device, adapters)
        with adapters.holding(torch.arange(adapters.rows) == 0):  # kernels are tried on a single row
            self.choice = kernels_for(model, device, window, learns=True, world=world)
        self.kernels, self.window, self.columns = self.choice.lines, window, columns
        self.run = self.graph = Graph(self.read, device.device)

    def shown(self, block: Block) -> Shown:
        shown = Shown.of(block, torch.ones(len(block.tokens), dtype=torch.bool), self.columns)
        shortest = -(-self.window >> self.HALVINGS)
        length = padded_length(max(shown.tokens.shape[1], shortest), self.window)
        shown = shown._replace(tokens=F.pad(shown.tokens, (0, length - shown.tokens.shape[1])))
        self.choice.slots.fit(shown.tokens.numpy())
        return shown

    @property
    def seconds(self) -> float:
        return self.graph.seconds

    def close(self) -> None:
        self.choice.restore()
