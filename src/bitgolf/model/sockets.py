"""The closed list of sockets: which signatures a part may have. A new socket needs a note in `docs/design.md`.

Shapes: B sequences, T positions, S keys, D width, H query heads, G key/value heads, d head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from bitgolf.model.core import Bus, Part


class StreamPart(Part):
    """On the residual stream, before a block or after the embedding: (B, T, D) -> (B, T, D)."""

    def forward(self, x: Tensor, bus: Bus) -> Tensor:
        raise NotImplementedError


class Norm(Part):
    """(B, T, D) -> (B, T, D)."""

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Join(Part):
    """How a branch's output y meets the stream x."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError


class Mixer(Part):
    """Mixes over time: (B, T, D) -> (B, T, D)."""

    def forward(self, x: Tensor, bus: Bus) -> Tensor:
        raise NotImplementedError


class QKPart(Part):
    """On queries (B, T, H, d) and keys (B, T, G, d)."""

    def forward(self, q: Tensor, k: Tensor, bus: Bus) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class ValuePart(Part):
    """On values (B, T, G, d), with the block's normalised input x."""

    def forward(self, v: Tensor, x: Tensor, bus: Bus) -> Tensor:
        raise NotImplementedError


class AfterPart(Part):
    """On attention's output y (B, T, H, d), with its normalised input x and its values v."""

    def forward(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError


class Core(Part):
    """Attention itself: q (B, T, H, d), k and v (B, T, G, d) -> (B, T, H, d); query head h reads k/v head h // (H/G)."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bus: Bus) -> Tensor:
        raise NotImplementedError


class Mask(Part):
    """Which keys a query sees, beyond causality: a boolean (T, S) or (B, 1, T, S)."""

    def forward(self, bus: Bus) -> Tensor:
        raise NotImplementedError


class Feed(Part):
    """A position-wise branch: (B, T, D) -> (B, T, D)."""

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Activation(Part):
    """Elementwise."""

    def forward(self, u: Tensor) -> Tensor:
        raise NotImplementedError


class Cap(Part):
    """On logits (B, T, V)."""

    def forward(self, z: Tensor) -> Tensor:
        raise NotImplementedError


class View(Part):
    """Edits a weight before it multiplies: fake quantization, tying, low rank."""

    def forward(self, w: Tensor) -> Tensor:
        raise NotImplementedError


class Add(Part):
    """Adds to a matrix's output, from its input: LoRA, a low-rank correction."""

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Depth(Part):
    """Which blocks run, in which order, and what connects them."""

    def forward(self, x: Tensor, bus: Bus, blocks: nn.ModuleList) -> Tensor:
        raise NotImplementedError


class Order:
    """The list of physical layers to visit."""

    def visits(self, layers: int) -> Sequence[int]:
        raise NotImplementedError


class Objective(Part):
    """Training loss (a scalar, mean nats per token) from the last hidden state, the targets and the head."""

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        raise NotImplementedError


class Init:
    """Initial values of a matrix, (fan_out, fan_in), in place."""

    def fill(self, weight: Tensor) -> None:
        raise NotImplementedError
