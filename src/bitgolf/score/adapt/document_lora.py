"""Adaptation to each document by itself: adapters that start anew with it, and learn of each piece once it is scored.

Parameter Golf, 2026-03-17 (record "LoRA TTT"): rank 8 on head, q and v, pieces of 256 targets. Its second generation,
#1530 to #1855: rank 96 or 80 on head, q, k, v, out and beside the MLP, pieces of 48, AdamW with betas (0, 0.99).
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
from bitgolf.model.batched_lora import Adapters
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import ALONE, World
from bitgolf.score.adapt.adapter_forward import CompiledRows, Rows
from bitgolf.score.adapt.per_row_adam import PerRowAdam
from bitgolf.score.document_order import CorpusOrder, Order
from bitgolf.score.execution.async_copy import upload
from bitgolf.score.execution.forward import SelectKernels
from bitgolf.score.methods import Method, Section, Sliding, Track, check_stride
from bitgolf.score.player import AdaptationStep, Block
from bitgolf.score.text import Text

DEPTH = 4  # documents that follow one another in a row of a track, on average
CHAINS = 8  # tracks of documents that keep their A, at most: as many processes have work


@register
class DocumentLora(Method):
    """Each document in windows of its own, `stride` targets a window; after a window's score the adapters learn of it.

    rows: documents side by side, each with adapters of its own; totals do not depend on it.
    rank: of the adapters, which add alpha / rank * (x A^T) B^T (alpha none: a factor of 1). Rank 0 is a bias alone.
    on: what is adapted: `head`, `mlp` (beside the MLP), and matrices of the blocks by name (`q`, `k`, `v`, `out`, …).
    lr, betas, eps, weight_decay: of Adam with decoupled decay. steps: of it, after each window but a document's last.
    warm: keep A from document to document of a row, and start only B and the moments anew (Parameter Golf #1767):
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
        on: tuple[str, ...] = ("head", "q", "v"),
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        steps: int = 1,
        warm: bool = False,
        seed: int = 0,
        order: Spec[Order] = part(CorpusOrder),
    ) -> None:
        check_stride(window, stride)
        for key, value, least in (("rows", rows, 1), ("rank", rank, 0), ("steps", steps, 0), ("seed", seed, 0)):
            if value < least:
                raise RecipeError(f"{value} is too small", place=f"score.{key}", mend=f"at least {least}")
        if not rank and (warm or alpha is not None):
            raise RecipeError("a bias has no A to keep and no alpha", place="score.rank", mend="a rank of at least 1")
        self.window, self.stride, self.opening = window, stride, stride
        self.order, self._order = order(), order
        self.rows, self.rank, self.on, self.seed, self.warm = rows, rank, on, seed, warm
        self.scale = 1.0 if alpha is None else alpha / rank
        self.lr, self.betas, self.eps, self.weight_decay, self.steps = lr, betas, eps, weight_decay, steps

    @property
    def crosses(self) -> bool:
        return self.warm

    def sections(self, text: Text, batch_tokens: int) -> Iterator[Section]:
        """One section: what is learned of a document serves that document alone. Its memory is a matter of `rows`."""
        yield Section(0, text.targets, self.tracks(text.documents()))

    def tracks(self, documents: Sequence[tuple[int, int]]) -> Iterator[Track]:
        """Documents, (start, stop) of their targets, in their order; however many processes there are."""
        for group in self._chains(documents) if self.warm else groups(documents, DEPTH * self.rows):
            yield Track(self.rows, [list(self.windows(stop - start, start)) for start, stop in group])

    def _chains(self, documents: Sequence[tuple[int, int]]) -> Iterator[Sequence[tuple[int, int]]]:
        """At least two documents a row in each, or there would be nothing to keep."""
        dealt = list(groups(documents, self.rows))
        chains = max(1, min(CHAINS, len(dealt) // 2))
        for i in range(chains):
            yield [document for group in dealt[i::chains] for document in group]

    def player(
        self, model: LM, vocab: int, device: Device, world: World, kernels: SelectKernels | None = None
    ) -> LoraPlayer:
        return LoraPlayer(model, vocab, device, self, world, kernels)

    def still(self) -> Spec[Method]:
        rest = self.window % self.stride
        first_stride = self.window - rest if rest else None  # so that later windows begin where they begin here
        return part(
            Sliding,
            window=self.window,
            stride=self.stride,
            isolated=True,
            first_stride=first_stride,
            order=self._order,
        )


def groups(documents: Sequence[tuple[int, int]], size: int) -> Iterator[Sequence[tuple[int, int]]]:
    """So many documents at a time."""
    for i in range(0, len(documents), size):
        yield documents[i : i + size]


class LoraPlayer:
    """A model with adapters, a set for each of `method.rows` rows. Whoever makes it closes it.

    With P numbers a row (see `Adapters`) it holds 20 to 32 bytes for each of rows * P: the adapters, two moments, the
    gradient in two forms, and where it steps eagerly three more; and from `predict` to `observe` the graph of one
    forward, `batch.graph_bytes_per_token` for each token. On CUDA that is bounded, see `CompiledRows.limit`.
    """

    def __init__(
        self,
        model: LM,
        vocab: int,
        device: Device,
        method: DocumentLora,
        world: World = ALONE,
        kernels: SelectKernels | None = None,
    ) -> None:
        self.model = model.to(device.device).eval()
        self.vocab, self.device, self.method = vocab, device, method
        self.adapters = Adapters(
            self.model, method.rows, method.on, rank=method.rank, scale=method.scale, seed=method.seed
        )
        try:
            self.forward = self._forward(world, kernels)
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
        self._kept: tuple[Block, Tensor] | None = None

    def _forward(self, world: World, kernels: SelectKernels | None) -> Rows:
        if self.device.device.type != "cuda":
            return Rows(self.model, self.device, self.adapters)
        return CompiledRows(
            self.model,
            self.device,
            self.adapters,
            window=self.method.window,
            columns=self.method.stride,
            world=world,
            kernels=kernels,
        )

    def predict(self, block: Block) -> Tensor:
        """The graph is kept for `observe` where the whole block is read at once: of several pieces it could be too large."""
        if block.opens:
            self.renew()
        self.reset(block.fresh)
        pieces = self.forward.pieces(block)
        keeps = len(pieces) == 1 and self.method.steps > 0
        with torch.set_grad_enabled(keeps):
            logits = [self.forward(shown) for shown in pieces]
        self._kept = (block, logits[0]) if keeps else None
        return logits[0].detach() if len(logits) == 1 else torch.cat(logits)

    def observe(self, block: Block, targets: Tensor) -> None:
        """Learn of a block: from the graph of its prediction, or where there is none, from a new one."""
        kept, self._kept = self._kept, None
        counts = block.asked.sum(1)
        learns = self._unfinished(counts, targets)
        if not bool(learns.any()):
            return
        shares = torch.repeat_interleave(learns / counts.clamp(min=1), counts)  # a row's loss is its targets' mean
        shares, targets, learns = (upload(t, self.device.device) for t in (shares, targets, learns))
        known = kept[1] if kept and kept[0] is block else None
        for _ in range(self.method.steps):
            self.adam.step(self._gradient(block, targets, shares, known), learns)
            known = None

    def _gradient(self, block: Block, targets: Tensor, shares: Tensor, known: Tensor | None) -> Tensor:
        """(rows, P), of the sum over rows of the mean nats of each; known: the logits with their graph, if there is one."""
        pieces, gradient = self.forward.pieces(block), None
        sizes = [len(shown.places) for shown in pieces]
        with torch.enable_grad():
            for shown, own, share in zip(pieces, targets.split(sizes), shares.split(sizes), strict=True):
                logits = self.forward(shown) if known is None else known
                loss = F.cross_entropy(logits, own, reduction="none") @ share.to(logits.dtype)
                found = self.adapters.gradients(loss)
                gradient = found if gradient is None else gradient.add_(found)
        assert gradient is not None, "a row that learns was asked for something"
        return gradient

    def _unfinished(self, counts: Tensor, targets: Tensor) -> Tensor:
        """The rows, boolean (B,), that were asked for something and whose document goes on: its last target is no BOS."""
        last = (counts.cumsum(0) - 1).clamp(min=0)
        return (counts > 0) & (targets[last] != self.model.bos)

    def reset(self, rows: Tensor) -> None:
        """Other documents begin in these rows, boolean (rows,) on the CPU."""
        self._kept = None
        if bool(rows.any()):
            self.adapters.reset(rows, warm=self.method.warm)
            self.adam.reset(rows)

    def renew(self) -> None:
        """Everything starts anew, also what `warm` keeps: around base weights that have changed."""
        everything = torch.ones(self.method.rows, dtype=torch.bool)
        self.reset(everything)
        self.adapters.reset(everything)

    @contextmanager
    def bare(self) -> Iterator[LM]:
        """The model without its adapters: for what else it is to learn meanwhile, in batches of any size."""
        self._kept = None
        self.adapters.detach()
        try:
            yield self.model
        finally:
            self.adapters.attach()

    def adapt(self, revealed: Tensor, step: AdaptationStep) -> None:
        pass

    def close(self) -> None:
        self._kept = None
        self.adapters.detach()
        self.forward.close()
