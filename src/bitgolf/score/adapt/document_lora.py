"""Test-time training of LoRA adapters per document: reset at each document, trained on each window after its score.

Parameter Golf, record "LoRA TTT" of 2026-03-17: rank 8 on head, q and v, 256 targets per window. Second version, #1530
to #1855: rank 96 or 80 on head, q, k, v, and in parallel to attention and MLP, 48 targets per window, AdamW with betas
(0, 0.99).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from bitgolf.config.ranges import (
    AdapterRank,
    Betas,
    Epsilon,
    Finite,
    LearningRate,
    Repetitions,
    ScoringRows,
    Seed,
    TokenCount,
    WeightDecayFactor,
    WindowTokens,
)
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.score.adapt.lora_player import LoRAPlayer
from bitgolf.score.document_order import CorpusOrder, DocumentOrder
from bitgolf.score.execution.forward import SelectKernels
from bitgolf.score.methods import (
    UPDATES_WEIGHTS,
    ScoringMethod,
    ScoringWindow,
    SlidingScoring,
    TextBatch,
    TextSection,
    check_stride,
)
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
    short_documents: (limit, stride) by ascending limit. A group of `rows` documents has the stride of the first limit
    that its longest document does not exceed, in tokens, with the BOS before and the one after it; else `stride`
    (Parameter Golf #2014: 8 up to 256 tokens, 24 up to 2,000). The adapters of short documents then take more steps.
    seed: of the initial A, the same for every document. order: document order.
    """

    name = "lora"
    adapts = True
    native_only = UPDATES_WEIGHTS
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
        short_documents: tuple[tuple[TokenCount, WindowTokens], ...] = (),
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
        self.short_documents = _checked_short_documents(short_documents, window, stride, full_windows)
        self.scale = 1.0 if alpha is None else alpha / rank
        self.lr, self.betas, self.eps, self.weight_decay, self.steps = lr, betas, eps, weight_decay, steps

    @property
    def cross_document(self) -> bool:
        return self.keep_a or bool(self.short_documents)  # the longest document of a group sets the stride of all

    @property
    def reads_in_order(self) -> bool:
        return self.rows == 1 and not self.keep_a  # A is kept in chains of documents

    @property
    def serial(self) -> bool:
        return False

    def sections(self, text: TokenizedText, batch_tokens: int) -> Iterator[TextSection]:
        """One section, since adapters serve one document only. `batch_tokens` is unused: `rows` determines memory."""
        yield TextSection(0, text.num_targets, self.batches(text.documents()))

    def batches(self, documents: Sequence[tuple[int, int]]) -> Iterator[TextBatch]:
        """Text batches of documents, each (start, stop) of its targets. Independent of the number of processes."""
        for group in self._chains(documents) if self.keep_a else batched(documents, DOCUMENTS_PER_ROW * self.rows):
            texts = list[list[ScoringWindow]]()
            for side_by_side in batched(group, self.rows):
                stride = self.stride_of(side_by_side)
                texts += [list(self.windows(stop - start, start, stride)) for start, stop in side_by_side]
            yield TextBatch(self.rows, texts, together=self.keep_a)

    def stride_of(self, documents: Sequence[tuple[int, int]]) -> int:
        """The stride of a group of documents, each (start, stop) of its targets: one less than its tokens."""
        longest = max(stop - start for start, stop in documents) + 1
        return next((stride for limit, stride in self.short_documents if longest <= limit), self.stride)

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


def _checked_short_documents(
    short_documents: tuple[tuple[int, int], ...], window: int, stride: int, full_windows: bool
) -> tuple[tuple[int, int], ...]:
    """`DocumentLoRA.short_documents`, or a `RecipeError`.

    No limit exceeds the window, so that the context of a target, all of its document, does not depend on the stride.
    """
    limits, strides = ([pair[i] for pair in short_documents] for i in (0, 1))
    if any(a >= b for a, b in pairwise([0, *limits, window + 1])) or any(own > stride for own in strides):
        cause = f"limits must ascend to at most the window of {window}, strides to at most {stride}: {short_documents}"
        raise RecipeError(cause, where="score.short_documents", hint="e.g. ((256, 8), (2000, 24))")
    if short_documents and not full_windows:
        cause = "the stride depends on where a document ends, as with full_windows, which is off"
        raise RecipeError(cause, where="score.short_documents", hint="set full_windows=true")
    return short_documents


def batched(documents: Sequence[tuple[int, int]], size: int) -> Iterator[Sequence[tuple[int, int]]]:
    """Consecutive groups of `size` documents; the last group may be smaller."""
    for i in range(0, len(documents), size):
        yield documents[i : i + size]
