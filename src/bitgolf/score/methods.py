"""Scoring methods: how a text is cut into windows, each target being scored exactly once, and which player scores it.

Target t is the token after input t. A window (start, stop, first_target) reads inputs start … stop-1 and scores targets
first_target … stop-1. The windows of one text are read in order. A `TextBatch` is a set of texts that are read side by
side. A `TextSection` is a set of such batches; a player that adapts to a section is used in the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import ClassVar, NamedTuple

from bitgolf.config.ranges import WindowTokens
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

UPDATES_WEIGHTS = "updates weights, and portable arithmetic has no gradients"
SORT_POOL = 512  # windows that are sorted by length before they are batched


class ScoringWindow(NamedTuple):
    """Inputs start … stop-1, of which the targets first_target … stop-1 are scored."""

    start: int
    stop: int
    first_target: int


class TextBatch(NamedTuple):
    """Texts that one process scores in `rows` rows side by side. When the text of a row ends, the next text follows.

    together: the next text follows when the texts of all rows have ended, so that texts i * rows to (i + 1) * rows - 1
    begin in the same step.
    """

    rows: int
    texts: Sequence[Iterable[ScoringWindow]]
    together: bool = False


class TextSection(NamedTuple):
    """Targets start … stop-1, in batches that are independent: several processes may score them in any order.

    step: the adaptation step after the section, for a method that adapts.
    """

    start: int
    stop: int
    batches: Iterable[TextBatch]
    step: AdaptationStep = AdaptationStep()


class ScoringMethod:
    """A scoring method. `name` identifies it in results and on the command line."""

    name: str
    adapts: ClassVar[bool] = False  # whether the model changes while it is scored
    native_only: str = ""  # why its probabilities have no portable form, e.g. "updates weights, …"; "" if they have one
    window: int  # tokens
    stride: int  # targets per window
    first_stride: int  # targets of a text's first window
    full_windows: bool = False  # whether a text's last window begins earlier, so that it has `window` tokens, too
    isolated: bool = False  # whether each document is a separate text
    order: DocumentOrder = CorpusOrder()  # in which documents are scored
    rope_scaling: Spec[RoPEScaling] | None = None  # replaces the model's own scaling of rotary positions

    @property
    def cross_document(self) -> bool:
        """Whether earlier text can change a document's score. If False, audits check that it does not."""
        return not self.isolated

    @property
    def reads_in_order(self) -> bool:
        """Whether targets are predicted in the order of the text, one after the other, also within a batch."""
        return False

    @property
    def serial(self) -> bool:
        """Whether a decoder must go through the text token by token, because no documents are read side by side."""
        return self.cross_document

    def sections(self, text: TokenizedText, batch_tokens: int) -> Iterator[TextSection]:
        """The sections of a text, in order. By default there is one, in which all windows are independent."""
        windows = (w for start, stop in self.text_spans(text) for w in self.windows(stop - start, start))
        yield TextSection(0, text.num_targets, batch_windows(windows, batch_tokens))

    def text_spans(self, text: TokenizedText) -> list[tuple[int, int]]:
        """(start, stop) of the targets of each text: the documents if `isolated`, otherwise the whole stream."""
        return text.documents() if self.isolated else [(0, text.num_targets)]

    def windows(self, targets: int, start: int = 0, stride: int = 0) -> Iterator[ScoringWindow]:
        """The windows of a text whose targets begin at `start`.

        The first window scores `first_stride` targets, each later one its last `stride` targets, the last one the rest.
        stride: replaces both strides of the method; 0 keeps them.
        """
        later, first = (stride, stride) if stride else (self.stride, self.first_stride)
        done, end = start, start + targets
        while done < end:
            stop = min(done + (later if done > start else first), end)
            last = stop if self.full_windows else done + later  # as if the text had a whole stride left
            yield ScoringWindow(max(start, last - self.window), stop, done)
            done = stop

    def make_player(
        self,
        model: LM,
        vocab: int,
        device: Device,
        distributed: DistributedContext,
        kernels: SelectKernels | None = None,
    ) -> Player:
        """The player of this method. It may change the model until it is closed; `close` restores the model.

        kernels: selects fused kernels on CUDA; None to compile the model's reference parts.
        """
        scaling = active_rope_scaling(model, self.rope_scaling) if self.rope_scaling else None
        return StaticPlayer(
            model, vocab, device, longest=self.window, distributed=distributed, kernels=kernels, rope_scaling=scaling
        )

    def warnings(self, text: TokenizedText) -> list[str]:
        """Warnings about a score of this text, e.g. that it is too short for an adaptation phase."""
        return []

    def without_adaptation(self) -> Spec[ScoringMethod] | None:
        """For a method that adapts, the baseline with the same windows and no adaptation; otherwise None."""
        return None


def batch_windows(windows: Iterable[ScoringWindow], batch_tokens: int) -> Iterator[TextBatch]:
    """Batch independent windows by length, so that each batch has at most `batch_tokens` tokens, padding included.

    A window longer than `batch_tokens` is a batch of its own.
    """
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
    """Windows of `window` tokens that do not overlap. The mean context of a target is half a window."""

    name = "contiguous"

    def __init__(
        self, *, window: WindowTokens = 1024, isolated: bool = False, rope_scaling: Spec[RoPEScaling] | None = None
    ) -> None:
        if window < 1:
            raise RecipeError(f"window must be at least 1 token, got {window}", where="score.window")
        check_rope_scaling(rope_scaling, window)
        self.window = self.stride = self.first_stride = window
        self.isolated, self.rope_scaling = isolated, rope_scaling


@register
class SlidingScoring(ScoringMethod):
    """Windows of `window` tokens, one every `stride` tokens.

    After the first window, a target has at least window - stride tokens of context.
    isolated: windows begin anew at each document (Parameter Golf, 2026-03-17); otherwise they cross documents.
    first_stride: targets of a text's first window; None for `window`. order: document order.
    full_windows: a text's last window, too, reads `window` tokens if there are as many. Its context then depends on
    where the text ends, which a decoder does not know, so that texts cannot be coded with this method.
    rope_scaling: for windows longer than in training, e.g. `NTKScaling(original_length=1024, length=1408)` as in
    Parameter Golf (factor 1.375).
    """

    name = "sliding"

    def __init__(
        self,
        *,
        window: WindowTokens = 1024,
        stride: WindowTokens = 64,
        isolated: bool = False,
        rope_scaling: Spec[RoPEScaling] | None = None,
        first_stride: WindowTokens | None = None,
        full_windows: bool = False,
        order: Spec[DocumentOrder] = part(CorpusOrder),
    ) -> None:
        check_stride(window, stride)
        check_rope_scaling(rope_scaling, window)
        if first_stride is not None and not 1 <= first_stride <= window:
            cause = f"first_stride must be from 1 to the window of {window} tokens, got {first_stride}"
            raise RecipeError(cause, where="score.first_stride")
        self.window, self.stride, self.first_stride = window, stride, first_stride or window
        self.isolated, self.rope_scaling, self.order = isolated, rope_scaling, order()
        self.full_windows = full_windows


def check_stride(window: int, stride: int) -> None:
    """Raises `RecipeError` unless 1 <= stride <= window."""
    if not 1 <= stride <= window:
        raise RecipeError(f"stride must be from 1 to the window of {window} tokens, got {stride}", where="score.stride")
