"""The sizes of a recipe that `auto` chooses: shape of the model, vocabulary, batch, rates, bits, share of calibration."""

from __future__ import annotations

import msgspec


class RecipeSizes(msgspec.Struct, frozen=True, kw_only=True):
    """What the recipe `auto` needs besides a cap and a clock.

    layers, width, heads, kv_heads, hidden: shape of the model; `hidden` is that of an MLP. vocab: tokens of the
    vocabulary, an upper limit. rows, length: sequences of a batch, and their tokens. micro_rows: sequences of a
    micro-batch. steps: limit of training steps, 0 for none. matrix_lr, table_lr: learning rates of Muon and of Adam.
    weight_decay, momentum_steps: of Muon. bits: mean bits of a stored weight. calibration_batches: of 8 sequences each.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    vocab: int
    rows: int
    length: int
    micro_rows: int
    steps: int
    matrix_lr: float
    table_lr: float
    weight_decay: float
    momentum_steps: int
    bits: float
    calibration_batches: int

    @property
    def matrix_weights(self) -> int:
        """Weights of the matrices of all layers."""
        projections = 2 * self.width * (self.width + self.width * self.kv_heads // self.heads)
        return self.layers * (projections + 2 * self.width * self.hidden)

    @property
    def table_weights(self) -> int:
        """Weights of the embedding table, which is also the head."""
        return self.vocab * self.width

    @property
    def weights(self) -> int:
        """Weights of all matrices and of the table. Learned scales, under one in a hundred, are left out."""
        return self.matrix_weights + self.table_weights

    @property
    def batch_tokens(self) -> int:
        """Training tokens of a step."""
        return self.rows * self.length
