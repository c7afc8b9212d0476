"""The player of `DocumentLoRA`: a model with one set of LoRA adapters and Adam moments for each row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.model.batched_lora import BatchedLoRA
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bitgolf.score.adapt.adapter_forward import AdapterForward, CompiledAdapterForward
from bitgolf.score.adapt.per_row_adam import PerRowAdam
from bitgolf.score.execution.async_copy import copy_to_device
from bitgolf.score.execution.forward import SelectKernels
from bitgolf.score.execution.incremental_forward import IncrementalForward
from bitgolf.score.player import AdaptationStep, ScoringBatch

if TYPE_CHECKING:
    from bitgolf.score.adapt.document_lora import DocumentLoRA


class LoRAPlayer:
    """A model with one set of adapters for each of `method.rows` rows. The creator must call `close`.

    Memory: 20 to 32 bytes for each of rows * P adapter parameters (P per row, see `BatchedLoRA`): values, two moments,
    two copies of the gradient, and three temporaries if steps are eager. From `predict` to `observe` also the graph of
    one forward, `batch_size.training_bytes_per_token` per token, limited on CUDA by
    `CompiledAdapterForward.set_max_tokens`.
    """

    def __init__(
        self,
        model: LM,
        vocab: int,
        device: Device,
        method: DocumentLoRA,
        distributed: DistributedContext = SINGLE_PROCESS,
        kernels: SelectKernels | None = None,
    ) -> None:
        self.model = model.to(device.torch_device).eval()
        self.vocab, self.device, self.method = vocab, device, method
        self.adapters = BatchedLoRA(
            self.model, method.rows, method.target_modules, rank=method.rank, scale=method.scale, seed=method.seed
        )
        try:
            self.forward = self._forward(distributed, kernels)
        except Exception:  # the caller has no player to close
            self.adapters.detach()
            raise
        self.adam = PerRowAdam(
            self.adapters.values,
            lr=method.lr,
            betas=method.betas,
            eps=method.eps,
            weight_decay=method.weight_decay,
        )
        self._graph: tuple[ScoringBatch, Tensor] | None = None
        self._incremental: IncrementalForward | None = None

    def _forward(self, distributed: DistributedContext, kernels: SelectKernels | None) -> AdapterForward:
        if self.device.torch_device.type != "cuda":
            return AdapterForward(self.model, self.device, self.adapters)
        return CompiledAdapterForward(
            self.model,
            self.device,
            self.adapters,
            window=self.method.window,
            columns=self.method.stride,
            distributed=distributed,
            kernels=kernels,
        )

    def predict(self, block: ScoringBatch) -> Tensor:
        """Logits (n, V) of the targets.

        The graph is kept for `observe` if there is one micro batch; that of several could exceed the memory.
        """
        if block.reset_all:
            self.reset_all()
        self.reset(block.reset_rows)
        microbatches = self.forward.microbatches(block)
        keep_graph = len(microbatches) == 1 and self.method.steps > 0
        with torch.set_grad_enabled(keep_graph):
            logits = [self.forward(batch) for batch in microbatches]
        self._graph = (block, logits[0]) if keep_graph else None
        return logits[0].detach() if len(logits) == 1 else torch.cat(logits)

    def predict_next(self, block: ScoringBatch, *, begin: bool) -> Tensor:
        if block.reset_all:
            self.reset_all()
        self.reset(block.reset_rows)
        if self._incremental is None:
            self._incremental = IncrementalForward(self.model, self.method.window, every_row=True)
        return self._incremental(block, begin=begin)

    def observe(self, block: ScoringBatch, targets: Tensor) -> None:
        """Train the adapters on a batch. The first step uses the graph of `predict` if it was kept.

        With `keep_a`, the weight decay of a step also acts on the rows whose document has ended, as one AdamW over all
        rows does in the original. Their B and moments are reset before they are used again, their A is not.
        """
        graph, self._graph = self._graph, None
        counts = block.target_mask.sum(1)
        trained = self._rows_to_train(counts, targets)
        if not bool(trained.any()):
            return
        # the loss of a row is the mean over its targets
        weights = torch.repeat_interleave(trained / counts.clamp(min=1), counts)
        weights, targets, trained = (copy_to_device(t, self.device.torch_device) for t in (weights, targets, trained))
        logits = graph[1] if graph and graph[0] is block else None
        stepped = torch.ones_like(trained) if self.method.keep_a else trained
        for _ in range(self.method.steps):
            self.adam.step(self._gradient(block, targets, weights, logits), stepped)
            logits = None

    def _gradient(self, block: ScoringBatch, targets: Tensor, weights: Tensor, known: Tensor | None) -> Tensor:
        """Gradient (rows, P) of the weighted sum of the targets' nats. known: logits with their graph, if available."""
        microbatches, gradient = self.forward.microbatches(block), None
        sizes = [len(batch.target_indices) for batch in microbatches]
        with torch.enable_grad():
            for batch, own, weight in zip(microbatches, targets.split(sizes), weights.split(sizes), strict=True):
                logits = self.forward(batch) if known is None else known
                loss = F.cross_entropy(logits, own, reduction="none") @ weight.to(logits.dtype)
                part_gradient = self.adapters.gradients(loss)
                gradient = part_gradient if gradient is None else gradient.add_(part_gradient)
        assert gradient is not None, "a batch with a row to train has targets"
        return gradient

    def _rows_to_train(self, counts: Tensor, targets: Tensor) -> Tensor:
        """Rows to train, bool (B,): those with targets whose last target is not BOS, so that the document continues."""
        last = (counts.cumsum(0) - 1).clamp(min=0)
        return (counts > 0) & (targets[last] != self.model.bos)

    def reset(self, rows: Tensor) -> None:
        """Reset the adapters and Adam states of the selected rows, bool (rows,) on the CPU."""
        self._graph = None
        if bool(rows.any()):
            self.adapters.reset(rows, keep_a=self.method.keep_a)
            self.adam.reset(rows)

    def reset_all(self) -> None:
        """Reset the adapters of all rows, A included even with `keep_a`; used when the base weights have changed."""
        all_rows = torch.ones(self.method.rows, dtype=torch.bool)
        self.reset(all_rows)
        self.adapters.reset(all_rows)

    @contextmanager
    def without_adapters(self) -> Iterator[LM]:
        """The model with its adapters detached, so that its base weights can be trained in batches of any size."""
        self._graph = None
        self.adapters.detach()
        try:
            yield self.model
        finally:
            self.adapters.attach()

    def adapt(self, revealed: Tensor, step: AdaptationStep) -> None:
        pass

    def close(self) -> None:
        self._graph = None
        self.adapters.detach()
        self.forward.close()
