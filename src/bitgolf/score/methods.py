"""Scoring methods: which targets are scored in which window, each exactly once, and by what kind of player.

Target t is the token after input t. A window (start, stop, first) reads inputs start … stop-1 and scores targets
first … stop-1. The windows of one text come in order; texts side by side are a track; what a player learns of all
tracks of a section serves the next section.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import ClassVar, NamedTuple

from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.attention.rope_scaling import RoPEScaling
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.score.document_order import CorpusOrder, DocumentOrder
from bitgolf.score.execution.forward import SelectKernels
from bitgolf.score.player import AdaptationStep, Player, StaticPlayer
from bitgolf.score.rope_scaling import active_rope_scaling, check_rope_scaling
from bitgolf.score.text import TokenizedText

SORT_POOL = 512  # windows that are sorted by their length before they are put side by side


class ScoringWindow(NamedTuple):
    start: int
    stop: int
    first_target: int


class TextBatch(NamedTuple):
    """Texts of which `rows` are read side by side; where one ends the next begins. One process plays a track alone."""

    rows: int
    texts: Sequence[Iterable[ScoringWindow]]


class TextSection(NamedTuple):
    """Targets start … stop-1, in tracks that may be played in any order, at once, or by several processes.

    step: the adaptation step that follows it, for a method that adapts.
    """

    start: int
    stop: int
    batches: Iterable[TextBatch]
    step: AdaptationStep = AdaptationStep()


class ScoringMethod:
    """A way of scoring. `name` is what results call it."""

    name: str
    adapts: ClassVar[bool] = False  # the model changes while it is scored
    window: int
    stride: int  # targets of a window
    first_stride: int  # targets of a text's first window
    isolated: bool = False  # each document is a text of its own
    order: DocumentOrder = CorpusOrder()  # in which the referee is asked to score the documents
    rope_scaling: Spec[RoPEScaling] | None = None  # of rotary positions, in place of the model's own

    @property
    def cross_document(self) -> bool:
        """Whether what came before a document can change how it is scored: the promise that audits hold a method to."""
        return not self.isolated

    def sections(self, text: TokenizedText, batch_tokens: int) -> Iterator[TextSection]:
        """The plan. A method without memory scores everything in one section, each window by itself."""
        windows = (w for start, stop in self.text_spans(text) for w in self.windows(stop - start, start))
        yield TextSection(0, text.num_targets, batch_windows(windows, batch_tokens))

    def text_spans(self, text: TokenizedText) -> list[tuple[int, int]]:
        """What is read as one text: (start, stop) of its targets."""
        return text.documents() if self.isolated else [(0, text.num_targets)]

    def windows(self, targets: int, start: int = 0) -> Iterator[ScoringWindow]:
        """Every target of a text that begins at `start` once: `first_stride` of the first window, then the last `stride` of each."""
        done, end = start, start + targets
        while done < end:
            stop = min(done + (self.stride if done > start else self.first_stride), end)
            yield ScoringWindow(max(start, done + self.stride - self.window), stop, done)
            done = stop

    def make_player(
        self,
        model: LM,
        vocab: int,
        device: Device,
        distributed: DistributedContext,
        kernels: SelectKernels | None = None,
    ) -> Player:
        """The player that the method is scored with. It may change the model, and owns it until it is closed.

        kernels: selects fused kernels on CUDA; without it the model's own parts are compiled as they are.
        """
        scaling = active_rope_scaling(model, self.rope_scaling) if self.rope_scaling else None
        return StaticPlayer(
            model, vocab, device, longest=self.window, distributed=distributed, kernels=kernels, rope_scaling=scaling
        )

    def warnings(self, text: TokenizedText) -> list[str]:
        """What a reader of the text's score must know of it."""
        return []

    def without_adaptation(self) -> Spec[ScoringMethod] | None:
        """For a method that adapts: the same windows without adaptation, to compare with."""
        return None


def batch_windows(windows: Iterable[ScoringWindow], batch_tokens: int) -> Iterator[TextBatch]:
    """Windows that know nothing of one another, those of like length side by side, as many as fit `batch_tokens`."""
    rest = iter(windows)
    while pool := list(islice(rest, SORT_POOL)):
        batch: list[ScoringWindow] = []
        for window in sorted(pool, key=lambda w: w.start - w.stop):  # the longest first
            if batch and (len(batch) + 1) * (batch[0].stop - batch[0].start) > batch_tokens:
                yield TextBatch(len(batch), [[w] for w in batch])
                batch = []
            batch.append(window)
        yield TextBatch(len(batch), [[w] for w in batch])


@register
class ContiguousScoring(ScoringMethod):
    """Blocks of `window` tokens that do not overlap; a target sees half a window on average."""

    name = "contiguous"

    def __init__(
        self, *, window: int = 1024, isolated: bool = False, rope_scaling: Spec[RoPEScaling] | None = None
    ) -> None:
        if window < 1:
            raise RecipeError(f"a window of {window} tokens is not one", where="score")
        check_rope_scaling(rope_scaling, window)
        self.window = self.stride = self.first_stride = window
        self.isolated, self.rope_scaling = isolated, rope_scaling


@register
class SlidingScoring(ScoringMethod):
    """Windows of `window` tokens every `stride`; past the first, a target sees at least window - stride tokens.

    `isolated` starts anew at each document (Parameter Golf, 2026-03-17); else windows run over documents' ends.
    `first_stride`: number of targets of a text's first window; none for the window. `order`: of the documents.
    `rope_scaling`: for a window longer than those of training, `NTKScaling(original_length=1024, length=1408)` (Parameter Golf, 1.375 x).
    """

    name = "sliding"

    def __init__(
        self,
        *,
        window: int = 1024,
        stride: int = 64,
        isolated: bool = False,
        rope_scaling: Spec[RoPEScaling] | None = None,
        first_stride: int | None = None,
        order: Spec[DocumentOrder] = part(CorpusOrder),
    ) -> None:
        check_stride(window, stride)
        check_rope_scaling(rope_scaling, window)
        if first_stride is not None and not 1 <= first_stride <= window:
            raise RecipeError(f"first_stride {first_stride} is not in 1 … {window}", where="score.first_stride")
        self.window, self.stride, self.first_stride = window, stride, first_stride or window
        self.isolated, self.rope_scaling, self.order = isolated, rope_scaling, order()


def check_stride(window: int, stride: int) -> None:
    if not 1 <= stride <= window:
        raise RecipeError(f"stride {stride} does not fit a window of {window}", where="score")
