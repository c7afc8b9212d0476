"""Adaptation to each document by itself: adapters that start anew with it, and learn of each piece once it is scored.

Parameter Golf, 2026-03-17 (record "LoRA TTT"): rank 8 on head, q and v, pieces of 256 targets. Its second generation,
#1530 to #1855: rank 96 or 80 on head, q, k, v, out and beside the MLP, pieces of 48, AdamWAdaptation with betas (0, 0.99).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

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

DOCUMENTS_PER_ROW = 4  # documents that follow one another in a row of a track, on average
MAX_CHAINS = 8  # tracks of documents that keep their A, at most: as many processes have work


@register
class DocumentLoRA(ScoringMethod):
    """Each document in windows of its own, `stride` targets a window; after a window's score the adapters learn of it.

    rows: documents side by side, each with adapters of its own; totals do not depend on it.
    rank: of the adapters, which add alpha / rank * (x A^T) B^T (alpha none: a factor of 1). Rank 0 is a bias alone.
    target_modules: what is adapted: `head`, `mlp` (beside the MLP), and matrices of the blocks by name (`q`, `k`, …).
    lr, betas, eps, weight_decay: of Adam with decoupled decay. steps: of it, after each window but a document's last.
    keep_a: keep A from document to document of a row, and start only B and the moments anew (Parameter Golf #1767):
    then earlier documents do count. So that processes can share the work, documents are dealt, `rows` at a time, to up to
    eight chains, each of which begins with the A of the start, as each of the original's eight GPUs did; however many
    processes there are.
    seed: of A, which is the same for every document. order: of the documents; it decides which ones wait for others.
    """

    name = "lora"
    adapts = True
    isolated = True

    def __init__(
        self,
        *,
        window: int = 1024,
        stride: int = 256,
        rows: int = 64,
        rank: int = 8,
        alpha: float | None = None,
        target_modules: tuple[str, ...] = ("head", "q", "v"),
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        steps: int = 1,
        keep_a: bool = False,
        seed: int = 0,
        order: Spec[DocumentOrder] = part(CorpusOrder),
    ) -> None:
        check_stride(window, stride)
        for key, value, least in (("rows", rows, 1), ("rank", rank, 0), ("steps", steps, 0), ("seed", seed, 0)):
            if value < least:
                raise RecipeError(f"{value} is too small", where=f"score.{key}", hint=f"at least {least}")
        if not rank and (keep_a or alpha is not None):
            raise RecipeError("a bias has no A to keep and no alpha", where="score.rank", hint="a rank of at least 1")
        self.window, self.stride, self.first_stride = window, stride, stride
        self.order, self._order = order(), order
        self.rows, self.rank, self.target_modules, self.seed, self.keep_a = rows, rank, target_modules, seed, keep_a
        self.scale = 1.0 if alpha is None else alpha / rank
        self.lr, self.betas, self.eps, self.weight_decay, self.steps = lr, betas, eps, weight_decay, steps

    @property
    def cross_document(self) -> bool:
        return self.keep_a

    def sections(self, text: TokenizedText, batch_tokens: int) -> Iterator[TextSection]:
        """One section: what is learned of a document serves that document alone. Its memory is a matter of `rows`."""
        yield TextSection(0, text.num_targets, self.batches(text.documents()))

    def batches(self, documents: Sequence[tuple[int, int]]) -> Iterator[TextBatch]:
        """Documents, (start, stop) of their targets, in their order; however many processes there are."""
        for group in self._chains(documents) if self.keep_a else batched(documents, DOCUMENTS_PER_ROW * self.rows):
            yield TextBatch(self.rows, [list(self.windows(stop - start, start)) for start, stop in group])

    def _chains(self, documents: Sequence[tuple[int, int]]) -> Iterator[Sequence[tuple[int, int]]]:
        """At least two documents a row in each, or there would be nothing to keep."""
        dealt = list(batched(documents, self.rows))
        chains = max(1, min(MAX_CHAINS, len(dealt) // 2))
        for i in range(chains):
            yield [document for group in dealt[i::chains] for document in group]

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
        first_stride = self.window - rest if rest else None  # so that later windows begin where they begin here
        return part(
            SlidingScoring,
            window=self.window,
            stride=self.stride,
            isolated=True,
            first_stride=first_stride,
            order=self._order,
        )


def batched(documents: Sequence[tuple[int, int]], size: int) -> Iterator[Sequence[tuple[int, int]]]:
    """So many documents at a time."""
    for i in range(0, len(documents), size):
        yield documents[i : i + size]


class LoRAPlayer:
    """A model with adapters, a set for each of `method.rows` rows. Whoever makes it closes it.

    With P numbers a row (see `BatchedLoRA`) it holds 20 to 32 bytes for each of rows * P: the adapters, two moments, the
    gradient in two forms, and where it steps eagerly three more; and from `predict` to `observe` the graph of one
    forward, `batch.training_bytes_per_token` for each token. On CUDA that is bounded, see `CompiledAdapterForward.set_max_tokens`.
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
        except Exception:  # nobody can close what was never made
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
        """The graph is kept for `observe` where the whole block is read at once: of several pieces it could be too large."""
        if block.reset_all:
            self.reset_all()
        self.reset(block.reset_rows)
        pieces = self.forward.microbatches(block)
        keeps = len(pieces) == 1 and self.method.steps > 0
        with torch.set_grad_enabled(keeps):
            logits = [self.forward(shown) for shown in pieces]
        self._graph = (block, logits[0]) if keeps else None
        return logits[0].detach() if len(logits) == 1 else torch.cat(logits)

    def observe(self, block: ScoringBatch, targets: Tensor) -> None:
        """Learn of a block: from the graph of its prediction, or where there is none, from a new one."""
        kept, self._graph = self._graph, None
        counts = block.target_mask.sum(1)
        learns = self._rows_to_train(counts, targets)
        if not bool(learns.any()):
            return
        shares = torch.repeat_interleave(learns / counts.clamp(min=1), counts)  # a row's loss is its targets' mean
        shares, targets, learns = (copy_to_device(t, self.device.torch_device) for t in (shares, targets, learns))
        known = kept[1] if kept and kept[0] is block else None
        for _ in range(self.method.steps):
            self.adam.step(self._gradient(block, targets, shares, known), learns)
            known = None

    def _gradient(self, block: ScoringBatch, targets: Tensor, shares: Tensor, known: Tensor | None) -> Tensor:
        """(rows, P), of the sum over rows of the mean nats of each; known: the logits with their graph, if there is one."""
        pieces, gradient = self.forward.microbatches(block), None
        sizes = [len(shown.target_indices) for shown in pieces]
        with torch.enable_grad():
            for shown, own, share in zip(pieces, targets.split(sizes), shares.split(sizes), strict=True):
                logits = self.forward(shown) if known is None else known
                loss = F.cross_entropy(logits, own, reduction="none") @ share.to(logits.dtype)
                found = self.adapters.gradients(loss)
                gradient = found if gradient is None else gradient.add_(found)
        assert gradient is not None, "a row that learns was asked for something"
        return gradient

    def _rows_to_train(self, counts: Tensor, targets: Tensor) -> Tensor:
        """The rows, boolean (B,), that were asked for something and whose document goes on: its last target is no BOS."""
        last = (counts.cumsum(0) - 1).clamp(min=0)
        return (counts > 0) & (targets[last] != self.model.bos)

    def reset(self, rows: Tensor) -> None:
        """Other documents begin in these rows, boolean (rows,) on the CPU."""
        self._graph = None
        if bool(rows.any()):
            self.adapters.reset(rows, keep_a=self.method.keep_a)
            self.adam.reset(rows)

    def reset_all(self) -> None:
        """Everything starts anew, also what `keep_a` keeps: around base weights that have changed."""
        everything = torch.ones(self.method.rows, dtype=torch.bool)
        self.reset(everything)
        self.adapters.reset(everything)

    @contextmanager
    def without_adapters(self) -> Iterator[LM]:
        """The model without its adapters: for what else it is to learn meanwhile, in batches of any size."""
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
