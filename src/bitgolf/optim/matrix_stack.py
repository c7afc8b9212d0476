"""Matrices of one shape as one tensor, kept from step to step, of which each process may own a share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bitgolf.runtime.distributed import DistributedContext


class MatrixStack:
    """All matrices (m, n) of some parameters as one tensor (W k, m, n), of which each of W processes owns k.

    Leading axes of a parameter are matrices too. Blank matrices of zeros make their number a multiple of W; they come
    last, and an algorithm that forgets nothing but scale keeps them zero. The same stacking serves all that has the
    parameters' leading axes: gradients, momentum, memories of rows.

    `weights` and `grads` (W k, m, n) are buffers, `local_shard` (k, m, n) is this process's share of the weights, a view. The
    parameters stay tensors of their own, since a compiled graph would have to guard against what overlaps.
    """

    def __init__(
        self, params: Mapping[str, nn.Parameter], distributed: DistributedContext, reduce_dtype: torch.dtype
    ) -> None:
        self.paths = list(params)
        self.params: list[Tensor] = [p.detach() for p in params.values()]  # the same memory
        self.counts = [p.shape[:-2].numel() for p in self.params]
        self.matrices_per_rank = -(-sum(self.counts) // distributed.world_size)
        self.shard_start = distributed.rank * self.matrices_per_rank
        first = self.params[0]
        self.weights = first.new_zeros(self.matrices_per_rank * distributed.world_size, *first.shape[-2:])
        self.grads = torch.zeros_like(self.weights, dtype=reduce_dtype)
        self.local_shard = self.weights[self.shard_start : self.shard_start + self.matrices_per_rank]
        mine = self._mine(self.params)
        self._loads = list(self.local_shard[: len(mine)].unbind()), mine
        self._stores = self.params, self.unstack(self.weights)
        self._sends = self.unstack(self.grads)

    def stack_weights(self) -> Tensor:
        """`local_shard`, as the parameters are now."""
        _copy(*self._loads)
        return self.local_shard

    def unstack_weights(self) -> None:
        """Give the parameters the values of `weights`."""
        _copy(*self._stores)

    def stack_gradients(self, grads: Sequence[Tensor]) -> Tensor:
        """`grads` with these values, one tensor for each parameter."""
        _copy(self._sends, grads)
        return self.grads

    def shard_of(self, tensors: Sequence[Tensor]) -> Tensor:
        """This process's share of some state, one tensor for each parameter: a copy."""
        mine = self._mine(tensors)
        rest = tensors[0].new_zeros(self.matrices_per_rank - len(mine), *tensors[0].shape[self.params[0].ndim - 2 :])
        return torch.cat([torch.stack(mine), rest]) if mine else rest

    def unstack(self, stack: Tensor) -> list[Tensor]:
        """A stack (W k, …) as one view for each parameter, in its leading shape; the blank matrices are left out."""
        pieces = stack[: sum(self.counts)].split(self.counts)
        return [piece.view(*p.shape[:-2], *stack.shape[1:]) for piece, p in zip(pieces, self.params, strict=True)]

    def _mine(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The entries that this process owns, one for each matrix that is not blank."""
        flat = [t.view(-1, *t.shape[p.ndim - 2 :]) for t, p in zip(tensors, self.params, strict=True)]
        entries = [entry for some in flat for entry in some.unbind()]
        return entries[self.shard_start : self.shard_start + self.matrices_per_rank]


def _copy(into: Sequence[Tensor], source: Sequence[Tensor]) -> None:
    if into:
        torch._foreach_copy_(list(into), list(source))
