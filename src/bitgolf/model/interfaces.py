"""The closed list of sockets: which signatures a part may have. A new socket needs a note in `docs/design.md`.

Two more stand beside `Block`, because they take blocks: `block.ResidualTopology` and `block.LayerSchedule`.

Shapes: B sequences, T positions, S keys, D width, H query heads, G key/value heads, d head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.part import Part

ResidualStream = Tensor | tuple[Tensor, Tensor]
"""The residual stream between blocks: one tensor (B, T, D), or two lanes, the one that attention reads and the MLP's.

Two tensors, not one of (2, B, T, D): the gradient of a lane's weight would be a sum over all positions for two outputs,
which a compiler runs in two programs, and each use of one lane would write both.
"""


def as_lanes(x: ResidualStream) -> tuple[Tensor, Tensor]:
    """The two lanes; where the stream is one tensor, both are that."""
    return x if isinstance(x, tuple) else (x, x)


class ResidualStreamPart(Part):
    """On the residual stream, before a block or after the embedding: (B, T, D) -> (B, T, D)."""

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        raise NotImplementedError


class Norm(Part):
    """(B, T, D) -> (B, T, D)."""

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class ResidualScale(Part):
    """On what a branch adds to the stream: (B, T, D) -> (B, T, D)."""

    def forward(self, y: Tensor) -> Tensor:
        raise NotImplementedError


class TokenMixer(Part):
    """Mixes over time: (B, T, D) -> (B, T, D)."""

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        raise NotImplementedError


class QKPart(Part):
    """On queries (B, T, H, d) and keys (B, T, G, d)."""

    def forward(self, q: Tensor, k: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class ValuePart(Part):
    """On values (B, T, G, d), with the block's normalised input x."""

    def forward(self, v: Tensor, x: Tensor, context: ForwardContext) -> Tensor:
        raise NotImplementedError


class AttentionOutputPart(Part):
    """On attention's output y (B, T, H, d), with its normalised input x and its values v."""

    def forward(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError


class AttentionCore(Part):
    """Attention itself: q (B, T, H, d), k and v (B, T, G, d) -> (B, T, H, d); query head h reads k/v head h // (H/G)."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, context: ForwardContext) -> Tensor:
        raise NotImplementedError


class AttentionMask(Part):
    """Which keys a query sees, beyond causality: a boolean (T, S) or (B, 1, T, S)."""

    @property
    def span(self) -> int | None:
        """The most keys that a query sees, itself included; None where there is no such limit."""
        return None

    def forward(self, context: ForwardContext) -> Tensor:
        raise NotImplementedError

    @property
    def label(self) -> str:
        """Class and setting, as logs name the mask."""
        return f"{type(self).__name__}()"

    def mask_mod(self, context: ForwardContext) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
        """The same for a whole sequence as a rule of indices (row, query, key) -> seen; None for a mask without one.

        Fast cores, and rows too long for a mask of all pairs, need it.
        """
        return None


class FeedForward(Part):
    """A position-wise branch: (B, T, D) -> (B, T, D)."""

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Activation(Part):
    """Elementwise."""

    def forward(self, u: Tensor) -> Tensor:
        raise NotImplementedError


class LogitsTransform(Part):
    """On logits (B, T, V)."""

    def forward(self, z: Tensor) -> Tensor:
        raise NotImplementedError


class WeightTransform(Part):
    """Edits a weight before it multiplies: fake quantization, tying, low rank."""

    def forward(self, w: Tensor) -> Tensor:
        raise NotImplementedError


class OutputAdapter(Part):
    """Adds to a matrix's output, from its input: LoRA, a low-rank correction."""

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class LayerOrder:
    """The physical layers to visit, in order; a plan for each part of the run."""

    def phases(self, layers: int) -> Sequence[tuple[float, Sequence[int]]]:
        """(fraction of the run from which it holds, visits), the first from 0."""
        raise NotImplementedError


class SkipConnection(Part):
    """How the j-th skip meets the stream, both (B, T, D). Its place's `fan_in` is the number of skips."""

    def forward(self, x: Tensor, skip: Tensor, index: int) -> Tensor:
        raise NotImplementedError


class WeightSharing:
    """What blocks have in common, once all are built."""

    def tie(self, blocks: nn.ModuleList) -> None:
        raise NotImplementedError


class Objective(Part):
    """Training loss (a scalar, mean nats per token) from the last hidden state, the targets and the head."""

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        raise NotImplementedError


class Init:
    """Initial values of a matrix, (fan_out, fan_in), in place."""

    def fill(self, weight: Tensor) -> None:
        raise NotImplementedError
