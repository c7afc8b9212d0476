"""The referee: scores every target of a text once, from the logits of a player.

The referee decides when a token is revealed, applies the softmax over the whole vocabulary, and divides by the bytes of
the raw text. A player receives only tokens that are already revealed.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitgolf.errors import BitgolfError
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext, all_reduce_sum
from bitgolf.score.callbacks import LogitsCallback, ProgressCallback
from bitgolf.score.execution.async_copy import DeviceToHostCopy, copy_to_device
from bitgolf.score.methods import ScoringMethod, ScoringWindow, TextBatch, TextSection
from bitgolf.score.player import Player, ScoringBatch
from bitgolf.score.text import TokenizedText
from bitgolf.score.token_bits import token_bits

TargetBits = npt.NDArray[np.float64]
MAX_IN_FLIGHT = 3  # batches whose bits may still be copied from the device while the next batch is prepared


class Score(NamedTuple):
    """The score of one text by one method.

    bits: sum of -log2 p over all targets, in float64. bytes: of the raw text in UTF-8.
    tokens_read: tokens that the model computed; targets / tokens_read is 1 if no token was computed twice.
    seconds: wall time, compilation included.
    order_bits: bits charged for the order of the documents, in addition to `bits`; see `document_order`.
    """

    method: str
    bits: float
    bytes: int
    targets: int
    tokens_read: int
    seconds: float
    order_bits: int = 0

    @property
    def bpb(self) -> float:
        """Bits per byte, `order_bits` included."""
        return (self.bits + self.order_bits) / self.bytes


def score(
    player: Player,
    text: TokenizedText,
    method: ScoringMethod,
    *,
    distributed: DistributedContext = SINGLE_PROCESS,
    batch_tokens: int = 4096,
    progress: ProgressCallback | None = None,
    charges: TargetBits | None = None,
    on_logits: LogitsCallback | None = None,
) -> Score:
    """Score every target of `text` exactly once. Every process of `distributed` calls this; all get the same totals.

    charges: float64 (targets,), filled with the bits of each target that this process scores; on_logits gets the logits.
    Memory, in addition to the player's: 16 bytes per target (24 with `charges`), the logits of n = max(batch_tokens,
    window) targets (4 n V bytes, and once more in the player's precision) and the buffers of `token_bits`.
    Raises `BitgolfError` if the text is empty or has a token outside the vocabulary, or if logits have a wrong shape
    or are not finite.
    """
    if text.num_targets < 1 or text.bytes < 1:
        cause = f"nothing to score: the text has {text.num_targets} targets and {text.bytes} bytes"
        raise BitgolfError(cause, where="score")
    if (largest := int(text.tokens.max())) >= player.vocab:
        cause = f"the text has token {largest}, but the model's vocabulary has {player.vocab} tokens"
        raise BitgolfError(cause, where="score", hint="tokenize the text with the model's tokenizer")
    started, state = time.perf_counter(), _ScoreState(player, text, progress, charges, on_logits)
    bits = 0.0
    for section in method.sections(text, batch_tokens):
        bits += _score_section(state, section, distributed)
        if method.adapts:
            # a copy: a view would give access to the unrevealed tokens behind it
            revealed = state.tokens[section.start : section.stop + 1].clone()
            player.adapt(revealed, section.step)
    counts = torch.stack([state.scored, state.tokens_read]).to(distributed.device)
    scored, read = all_reduce_sum(counts, distributed).cpu()
    if not bool((scored == 1).all()):
        wrong = int((scored != 1).nonzero()[0])
        cause = f"method {method.name!r} scored target {wrong} {int(scored[wrong])} times instead of once"
        raise BitgolfError(cause, where="score")
    return Score(method.name, bits, text.bytes, text.num_targets, int(read.sum()), time.perf_counter() - started)


class _PendingBits(NamedTuple):
    """Bits of a batch's targets that are being copied from the device. Their sum is appended to `sums`."""

    windows: Sequence[ScoringWindow]
    bits: DeviceToHostCopy
    sums: list[float]


class _ScoreState:
    """State of a scoring run: how often each target was scored, the bits so far, and the copies that are pending."""

    def __init__(
        self,
        player: Player,
        text: TokenizedText,
        progress: ProgressCallback | None,
        charges: TargetBits | None,
        on_logits: LogitsCallback | None,
    ) -> None:
        self.player, self.progress, self.charges, self.on_logits = player, progress, charges, on_logits
        self.tokens = torch.from_numpy(np.asarray(text.tokens, dtype=np.int64))
        self.scored = torch.zeros(text.num_targets, dtype=torch.int32)
        self.tokens_read = torch.zeros(text.num_targets, dtype=torch.int32)  # counted at a window's first target
        self.done, self.bits = 0, 0.0
        self.pending = deque[_PendingBits]()

    def add(self, charge: _PendingBits) -> None:
        """Queue the bits of a batch. On the CPU they are recorded at once; on CUDA the last `MAX_IN_FLIGHT` wait."""
        self.pending.append(charge)
        self.flush(MAX_IN_FLIGHT if charge.bits.is_pending else 0)

    def flush(self, left: int = 0) -> None:
        """Record queued bits in order, except the last `left`. Raises `BitgolfError` if they are not finite."""
        while len(self.pending) > left:
            windows, copy, sums = self.pending.popleft()
            bits = copy.wait()
            if not math.isfinite(found := math.fsum(bits.tolist())):
                where = f"targets from {windows[0].first_target}"
                raise BitgolfError(f"the player's logits are not finite: the bits sum to {found}", where=where)
            for window, own in zip(windows, bits.split([w.stop - w.first_target for w in windows]), strict=True):
                self._record(window, own)
            sums.append(found)
            self._report(len(bits), found)

    def _record(self, window: ScoringWindow, bits: Tensor) -> None:
        """Record the bits (n,) of a window's targets."""
        self.scored[window.first_target : window.stop] += 1
        self.tokens_read[window.first_target] += window.stop - window.start
        if self.charges is not None:
            self.charges[window.first_target : window.stop] = bits.numpy()

    def _report(self, targets: int, bits: float) -> None:
        self.done, self.bits = self.done + targets, self.bits + bits
        if self.progress:
            self.progress(self.done, len(self.scored), self.bits)


def _score_section(state: _ScoreState, section: TextSection, distributed: DistributedContext) -> float:
    """Bits of a section, over all processes.

    Text batches are assigned to ranks round-robin. Sums are kept per text batch and added in order, so the result does
    not depend on the number of processes.
    """
    bits = list[list[float]]()  # for each text batch, the bits of its steps
    for i, texts in enumerate(section.batches):
        bits.append([])
        if i % distributed.world_size == distributed.rank:
            _score_batch(state, texts, bits[-1])
    state.flush()
    sums = torch.tensor([math.fsum(own) for own in bits], dtype=torch.float64, device=distributed.device)
    return math.fsum(all_reduce_sum(sums, distributed).tolist())


def _score_batch(state: _ScoreState, texts: TextBatch, bits: list[float]) -> None:
    """Score the texts of a batch, one window per row and step. Appends the bits of each step to `bits`."""
    for number, (windows, reset_rows) in enumerate(batch_rounds(texts)):
        block = _collate(state.tokens, windows, reset_rows, reset_all=number == 0)
        logits = state.player.predict(block)
        live = [w for w in windows if w]
        targets = torch.cat([state.tokens[w.first_target + 1 : w.stop + 1] for w in live])
        expected = (len(targets), state.player.vocab)
        if tuple(logits.shape) != expected:
            cause = f"the player returned logits of shape {tuple(logits.shape)}, expected {expected}"
            raise BitgolfError(cause, where="score")
        if state.on_logits:
            state.on_logits(torch.cat([torch.arange(w.first_target, w.stop) for w in live]), logits)
        charged = DeviceToHostCopy(token_bits(logits, copy_to_device(targets, logits.device)))
        state.add(_PendingBits(live, charged, bits))
        state.player.observe(block, targets)


def batch_rounds(batch: TextBatch) -> Iterator[tuple[list[ScoringWindow | None], list[bool]]]:
    """For each step, the window of each row (None if no text is left) and whether a new text begins in that row."""
    if batch.together and len(batch.texts) > batch.rows:
        for start in range(0, len(batch.texts), batch.rows):
            yield from batch_rounds(TextBatch(batch.rows, batch.texts[start : start + batch.rows]))
        return
    waiting = iter(batch.texts)
    rows: list[Iterator[ScoringWindow]] = [iter(()) for _ in range(batch.rows)]
    while True:
        windows, reset_rows = list[ScoringWindow | None](), [False] * batch.rows
        for i in range(batch.rows):
            window = next(rows[i], None)
            while window is None and (text := next(waiting, None)) is not None:
                rows[i], reset_rows[i] = iter(text), True
                window = next(rows[i], None)
            windows.append(window)
        if not any(windows):
            return
        yield windows, reset_rows


def _collate(
    tokens: Tensor, windows: Sequence[ScoringWindow | None], reset_rows: Sequence[bool], *, reset_all: bool
) -> ScoringBatch:
    inputs = [(tokens[w.start : w.stop], w.stop - w.first_target) if w else (tokens[:0], 0) for w in windows]
    return ScoringBatch.collate(inputs, torch.tensor(reset_rows), reset_all)
