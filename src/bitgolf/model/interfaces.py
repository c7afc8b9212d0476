"""Interfaces of model parts: one base class for each kind of part, with the signature of its `forward`.

The list is closed: a new interface needs a note in `docs/architecture.md`. Two interfaces that take blocks are in
`block.py`: `ResidualTopology` and `LayerSchedule`.

Shapes: B sequences, T positions, S keys, D model width, H query heads, G key/value heads, d head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.part import Part

ResidualStream = Tensor | tuple[Tensor, Tensor]
"""The residual stream between blocks: one tensor (B, T, D), or two lanes (attention's and the MLP's), each (B, T, D).

Lanes are two tensors instead of one (2, B, T, D). In one tensor, the gradient of a lane's weight would be a sum over
all positions for two outputs, which the compiler runs in two programs, and each use of one lane would write both.
"""


def as_lanes(x: ResidualStream) -> tuple[Tensor, Tensor]:
    """The two lanes of a stream. A stream of one tensor is returned twice."""
    return x if isinstance(x, tuple) else (x, x)


class ResidualStreamPart(Part):
    """Acts on the residual stream after the embedding, before or after a block, or after the final norm.

    (B, T, D) -> (B, T, D).
    """

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        raise NotImplementedError


class Norm(Part):
    """Normalisation layer: (B, T, D) -> (B, T, D)."""

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class ResidualScale(Part):
    """Scales the output of a residual branch before it is added to the stream: (B, T, D) -> (B, T, D)."""

    def forward(self, y: Tensor) -> Tensor:
        raise NotImplementedError


class TokenMixer(Part):
    """Mixes information across positions, as attention does: (B, T, D) -> (B, T, D)."""

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        raise NotImplementedError


class QKPart(Part):
    """Transforms queries (B, T, H, d) and keys (B, T, G, d) before the attention core."""

    def forward(self, q: Tensor, k: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class ValuePart(Part):
    """Transforms values v (B, T, G, d), given the normalised input x of attention, (B, T, D)."""

    def forward(self, v: Tensor, x: Tensor, context: ForwardContext) -> Tensor:
        raise NotImplementedError


class AttentionOutputPart(Part):
    """Transforms the output y (B, T, H, d) of the attention core.

    x (B, T, D) is the normalised input of attention, or, if `reads_queries`, the queries of all heads before the `qk`
    chain; v (B, T, G, d) are the values.
    """

    reads_queries: ClassVar[bool] = False

    def forward(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError


class AttentionCore(Part):
    """Attention: q (B, T, H, d), k and v (B, T, G, d) -> (B, T, H, d). Query head h uses key/value head h // (H/G)."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, context: ForwardContext) -> Tensor:
        raise NotImplementedError


class AttentionMask(Part):
    """Restricts attention beyond causality. Boolean (T, S) or (B, 1, T, S), True where a query attends to a key."""

    @property
    def span(self) -> int | None:
        """Maximum number of keys per query, itself included; None if unlimited."""
        return None

    def forward(self, context: ForwardContext) -> Tensor:
        raise NotImplementedError

    @property
    def label(self) -> str:
        """Class and setting of the mask, for log lines."""
        return f"{type(self).__name__}()"

    def mask_mod(self, context: ForwardContext) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
        """The mask as a predicate over indices: (row, query, key) -> True where the query attends to the key.

        None if the mask cannot be expressed in this way. It is valid for whole sequences. Fused attention cores need
        it, and so do rows that are too long for a dense (T, T) mask.
        """
        return None


class FeedForward(Part):
    """Position-wise residual branch: (B, T, D) -> (B, T, D)."""

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Activation(Part):
    """Elementwise activation function."""

    def forward(self, u: Tensor) -> Tensor:
        raise NotImplementedError


class LogitsTransform(Part):
    """Transforms logits: (B, T, V) -> (B, T, V)."""

    def forward(self, z: Tensor) -> Tensor:
        raise NotImplementedError


class WeightTransform(Part):
    """Transforms a matrix before it is multiplied, for example by fake quantization. The shape is kept."""

    def forward(self, w: Tensor) -> Tensor:
        raise NotImplementedError


class OutputAdapter(Part):
    """Computes, from the input of a matrix, a term that is added to its output, for example LoRA."""

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class LayerOrder:
    """Order in which the layers of a model are executed; it may differ between phases of the run."""

    def phases(self, layers: int) -> Sequence[tuple[float, Sequence[int]]]:
        """Fraction of the run at which each phase starts (0 for the first), and its layer indices in order."""
        raise NotImplementedError

    def evaluation_order(self, layers: int) -> Sequence[int]:
        """Layer indices in order in evaluation mode: by default those of the last phase."""
        return self.phases(layers)[-1][1]


class SkipConnection(Part):
    """Merges skip number `index`, the saved output of an earlier block, into the stream x; both are (B, T, D).

    `BuildContext.fan_in` is the number of skips.
    """

    def forward(self, x: Tensor, skip: Tensor, index: int) -> Tensor:
        raise NotImplementedError


class WeightSharing:
    """Shares parameters between blocks, after all blocks have been built."""

    def tie(self, blocks: nn.ModuleList) -> None:
        """Replace parameters of the blocks by shared ones, in place."""
        raise NotImplementedError


class Objective(Part):
    """Training loss: a scalar, mean nats per token.

    x (B, T, D) are the final hidden states, targets (B, T) the next tokens, and `logits` maps x to logits (B, T, V).
    """

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        raise NotImplementedError


class Init:
    """Sets the initial values of a matrix (fan_out, fan_in), in place."""

    def fill(self, weight: Tensor) -> None:
        raise NotImplementedError
