"""Test-time training of LoRA adapters per document: reset at each document, trained on each window after its score.

Parameter Golf, record "LoRA TTT" of 2026-03-17: rank 8 on head, q and v, 256 targets per window. Second version, #1530
to #1855: rank 96 or 80 on head, q, k, v, and in parallel to attention and MLP, 48 targets per window, AdamW with betas
(0, 0.99).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.config.ranges import (
    AdapterRank,
    Betas,
    Epsilon,
    Finite,
    LearningRate,
    Repetitions,
    ScoringRows,
    Seed,
    WeightDecayFactor,
    WindowTokens,
)
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.batched_lora import BatchedLoRA
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bitgolf.score.adapt.adapter_forward import AdapterForward, CompiledAdapterForward
from bitgolf.score.adapt.per_row_adam import PerRowAdam
from bitgolf.score.document_order import CorpusOrder, DocumentOrder
from bitgolf.score.execution.async_copy import copy_to_device
from bitgolf.score.execution.forward import SelectKernels
from bitgolf.score.methods import ScoringMethod, SlidingScoring, TextBatch, TextSection, check_stride
from bitgolf.score.player import AdaptationStep, ScoringBatch
from bitgolf.score.text import TokenizedText

DOCUMENTS_PER_ROW = 4  # mean number of documents per row of a `TextBatch`
MAX_CHAINS = 8  # maximum number of `TextBatch`es with `keep_a`, and so of processes that share the work


@register
class DocumentLoRA(ScoringMethod):
    """Isolated documents in windows of `stride` targets. After each window, the document's adapters train on it.

    rows: documents side by side, each with its own adapters. Without `keep_a`, the score does not depend on it.
    rank: of the adapters, which add alpha / rank * (x A^T) B^T (alpha=None: factor 1). Rank 0 is a bias only.
    target_modules: `head`, `mixer` and `mlp` (in parallel to attention and to the MLP), and matrices of the blocks by
    name (`q`, `k`, …).
    lr, betas, eps, weight_decay: of Adam with decoupled weight decay. steps: number of Adam steps after each window
    except the last of a document.
    keep_a: keep A from one document of a row to the next, and reset only B and the Adam moments (Parameter Golf #1767).
    Earlier documents then affect later ones. The documents of a group of `rows` begin together, and A of a row decays
    until all have ended. Groups are assigned round-robin to up to eight chains, which processes can share. Each chain
    begins with the initial A, as on each of the original's eight GPUs. The chains do not depend on the number of
    processes. If `rows` does not divide the number of documents, the first documents are a smaller group that neither
    gets an A nor passes one on.
    full_windows: see `SlidingScoring`; as published from 2026-03-17 on.
    seed: of the initial A, the same for every document. order: document order.
    """

    name = "lora"
    adapts = True
    isolated = True

    def __init__(
        self,
        *,
        window: WindowTokens = 1024,
        stride: WindowTokens = 256,
        rows: ScoringRows = 64,
        rank: AdapterRank = 8,
        alpha: Finite | None = None,
        target_modules: tuple[str, ...] = ("head", "q", "v"),
        lr: LearningRate = 0.01,
        betas: Betas = (0.9, 0.95),
        eps: Epsilon = 1e-10,
        weight_decay: WeightDecayFactor = 0.0,
        steps: Repetitions = 1,
        keep_a: bool = False,
        full_windows: bool = False,
        seed: Seed = 0,
        order: Spec[DocumentOrder] = part(CorpusOrder),
    ) -> None:
        check_stride(window, stride)
        for key, value, least in (("rows", rows, 1), ("rank", rank, 0), ("steps", steps, 0), ("seed", seed, 0)):
            if value < least:
                raise RecipeError(f"{key} must be at least {least}, got {value}", where=f"score.{key}")
        if not rank and (keep_a or alpha is not None):
            cause = f"rank 0 is a bias, which has neither A nor alpha: got keep_a={keep_a}, alpha={alpha}"
            raise RecipeError(cause, where="score.rank", hint="at least 1, or keep_a=false and alpha=none")
        self.window, self.stride, self.first_stride, self.full_windows = window, stride, stride, full_windows
        self.order, self._order = order(), order
        self.rows, self.rank, self.target_modules, self.seed, self.keep_a = rows, rank, target_modules, seed, keep_a
        self.scale = 1.0 if alpha is None else alpha / rank
        self.lr, self.betas, self.eps, self.weight_decay, self.steps = lr, betas, eps, weight_decay, steps

    @property
    def cross_document(self) -> bool:
        return self.keep_a

    def sections(self, text: TokenizedText, batch_tokens: int) -> Iterator[TextSection]:
        """One section, since adapters serve one document only. `batch_tokens` is unused: `rows` determines memory."""
        yield TextSection(0, text.num_targets, self.batches(text.documents()))

    def batches(self, documents: Sequence[tuple[int, int]]) -> Iterator[TextBatch]:
        """Text batches of documents, each (start, stop) of its targets. Independent of the number of processes."""
        for group in self._chains(documents) if self.keep_a else batched(documents, DOCUMENTS_PER_ROW * self.rows):
            texts = [list(self.windows(stop - start, start)) for start, stop in group]
            yield TextBatch(self.rows, texts, together=self.keep_a)

    def _chains(self, documents: Sequence[tuple[int, int]]) -> Iterator[Sequence[tuple[int, int]]]:
        """The chains for `keep_a`: the first, smaller group alone, then at most `MAX_CHAINS` of two or more groups."""
        remainder = len(documents) % self.rows
        if remainder:
            yield documents[:remainder]
        groups = list(batched(documents[remainder:], self.rows))
        chains = max(1, min(MAX_CHAINS, len(groups) // 2))
        for i in range(chains if groups else 0):
            yield [document for group in groups[i::chains] for document in group]

    def warnings(self, text: TokenizedText) -> list[str]:
        count = len(text.documents())
        if not self.keep_a or count >= 2 * self.rows:
            return []
        cause = f"A is kept from one {self.rows} documents to the next, and the text has {count}"
        return [f"keep_a has no effect: {cause}; set rows to at most {max(1, count // 2)}"]

    def make_player(
        self,
        model: LM,
        vocab: int,
        device: Device,
        distributed: DistributedContext,
        kernels: SelectKernels | None = None,
    ) -> LoRAPlayer:
        return LoRAPlayer(model, vocab, device, self, distributed, kernels)

    def without_adaptation(self) -> Spec[ScoringMethod]:
        rest = self.window % self.stride
        first_stride = self.window - rest if rest else None  # so that later windows begin at the same positions
        return part(
            SlidingScoring,
            window=self.window,
            stride=self.stride,
            isolated=True,
            first_stride=first_stride,
            full_windows=self.full_windows,
            order=self._order,
        )


def batched(documents: Sequence[tuple[int, int]], size: int) -> Iterator[Sequence[tuple[int, int]]]:
    """Consecutive groups of `size` documents; the last group may be smaller."""
    for i in range(0, len(documents), size):
        yield documents[i : i + size]


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
