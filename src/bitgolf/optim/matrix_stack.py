"""Stacking of matrices of one shape into one persistent tensor, optionally sharded over ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bitgolf.runtime.distributed import DistributedContext


class MatrixStack:
    """Stacks all matrices (m, n) of some parameters in one tensor (W k, m, n); each of W ranks owns k of them.

    A parameter with leading dimensions contributes several matrices. Zero matrices at the end pad the number to a
    multiple of W; they stay zero, since an update algorithm maps zero weights and gradients to zero. The same layout
    applies to every tensor with the leading dimensions of the parameters: gradients, momentum, per-row statistics.

    `weights` and `grads` (W k, m, n) are buffers; `local_shard` (k, m, n) is a view of the part of `weights` that this
    rank owns. The parameters remain separate tensors, because a compiled graph would need guards against overlapping
    memory.
    """

    def __init__(
        self, params: Mapping[str, nn.Parameter], distributed: DistributedContext, reduce_dtype: torch.dtype
    ) -> None:
        self.paths = list(params)
        self.params: list[Tensor] = [p.detach() for p in params.values()]  # shares memory with the parameters
        self.counts = [p.shape[:-2].numel() for p in self.params]
        self.matrices_per_rank = -(-sum(self.counts) // distributed.world_size)
        self.shard_start = distributed.rank * self.matrices_per_rank
        first = self.params[0]
        self.weights = first.new_zeros(self.matrices_per_rank * distributed.world_size, *first.shape[-2:])
        self.grads = self.weights.new_zeros(self.weights.shape, dtype=reduce_dtype)
        self.local_shard = self.weights[self.shard_start : self.shard_start + self.matrices_per_rank]
        local = self._local_matrices(self.params)
        self._local_views = list(self.local_shard[: len(local)].unbind()), local
        self._weight_views = self.unstack(self.weights)
        self._gradient_views = self.unstack(self.grads)

    def stack_weights(self) -> Tensor:
        """Copy this rank's part of the parameters into `local_shard` (k, m, n) and return it."""
        _copy(*self._local_views)
        return self.local_shard

    def unstack_weights(self) -> None:
        """Copy `weights` into the parameters."""
        _copy(self.params, self._weight_views)

    def stack_gradients(self, grads: Sequence[Tensor]) -> Tensor:
        """Copy one gradient per parameter into the buffer `grads` (W k, m, n) and return it."""
        _copy(self._gradient_views, grads)
        return self.grads

    def shard_of(self, tensors: Sequence[Tensor]) -> Tensor:
        """Copy this rank's shard (k, ...) out of state that has one tensor per parameter. Padding is zero."""
        local = self._local_matrices(tensors)
        entry_shape = tensors[0].shape[self.params[0].ndim - 2 :]
        padding = tensors[0].new_zeros(self.matrices_per_rank - len(local), *entry_shape)
        return torch.cat([torch.stack(local), padding]) if local else padding

    def unstack(self, stack: Tensor) -> list[Tensor]:
        """Views of a stack (W k, ...), one per parameter with its leading dimensions. Padding is left out."""
        pieces = stack[: sum(self.counts)].split(self.counts)
        return [piece.view(*p.shape[:-2], *stack.shape[1:]) for piece, p in zip(pieces, self.params, strict=True)]

    def _local_matrices(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Views of the entries that this rank owns, one per matrix, without padding."""
        flat = [t.view(-1, *t.shape[p.ndim - 2 :]) for t, p in zip(tensors, self.params, strict=True)]
        entries = [entry for tensor in flat for entry in tensor.unbind()]
        return entries[self.shard_start : self.shard_start + self.matrices_per_rank]


def _copy(destinations: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    if destinations:
        torch._foreach_copy_(list(destinations), list(sources))
