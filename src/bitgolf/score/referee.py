"""The referee: owns the text, the order of reveal, the normalisation and the byte counts."""

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
from bitgolf.score.callbacks import ProgressCallback
from bitgolf.score.execution.async_copy import DeviceToHostCopy, copy_to_device
from bitgolf.score.methods import ScoringMethod, ScoringWindow, TextBatch, TextSection
from bitgolf.score.player import Player, ScoringBatch
from bitgolf.score.text import TokenizedText
from bitgolf.score.token_bits import token_bits

TargetBits = npt.NDArray[np.float64]
MAX_IN_FLIGHT = 3  # blocks whose bits may still be on their way from the device while the next one is being prepared


class Score(NamedTuple):
    """Bits are summed in float64, bytes are those of the raw text: two sums, one division.

    read: tokens that the model read for it; targets / read is the share of its work that is no recomputation.
    charged: bits that the order of the documents costs (`orders`), on top of those of the targets.
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
) -> Score:
    """Score every target of `text` exactly once. Every process of `distributed` calls it and has the same totals.

    charges: float64 [targets], is filled with the bits of each target that this process scores.
    Memory, beyond the player's own: 16 bytes a target (24 with `charges`); with n = max(batch_tokens, window), the
    logits of at most n targets, 4 n V bytes and as much again in the player's own precision, and what `token_bits` needs.
    So `batch_tokens` bounds it, and a player that keeps nothing between blocks needs activations of n tokens.
    Raises where a player's logits are not a distribution's.
    """
    if text.num_targets < 1 or text.bytes < 1:
        raise BitgolfError("there is nothing to score: the text is empty", where="score")
    largest = int(text.tokens.max())
    if largest >= player.vocab:
        raise BitgolfError(f"the text holds token {largest}, the model knows {player.vocab}", where="score")
    started, desk = time.perf_counter(), _ScoreState(player, text, progress, charges)
    bits = 0.0
    for section in method.sections(text, batch_tokens):
        bits += _score_section(desk, section, distributed)
        if method.adapts:
            revealed = desk.tokens[section.start : section.stop + 1].clone()  # a view would reach the rest
            player.adapt(revealed, section.step)
    scored, read = all_reduce_sum(torch.stack([desk.scored, desk.read_by]).to(distributed.device), distributed).cpu()
    if not bool((scored == 1).all()):
        wrong = int((scored != 1).nonzero()[0])
        raise BitgolfError(f"{method.name} scored target {wrong} {int(scored[wrong])} times", where="score")
    return Score(method.name, bits, text.bytes, text.num_targets, int(read.sum()), time.perf_counter() - started)


class _PendingBits(NamedTuple):
    """The bits of a block's targets, on their way from the device; their sum joins those of the block's track."""

    windows: Sequence[ScoringWindow]
    bits: DeviceToHostCopy
    sums: list[float]


class _ScoreState:
    """What the referee keeps while it scores: which targets are done, and what it tells those who wait."""

    def __init__(
        self, player: Player, text: TokenizedText, progress: ProgressCallback | None, charges: TargetBits | None
    ) -> None:
        self.player, self.progress, self.charges = player, progress, charges
        self.tokens = torch.from_numpy(np.asarray(text.tokens, dtype=np.int64))
        self.scored = torch.zeros(text.num_targets, dtype=torch.int32)
        self.read_by = torch.zeros(
            text.num_targets, dtype=torch.int32
        )  # tokens read, put down at the targets they served
        self.done, self.bits = 0, 0.0
        self.pending = deque[_PendingBits]()

    def add(self, charge: _PendingBits) -> None:
        """Note what a block's targets cost; write it down at once on the CPU, else when the device has come so far."""
        self.pending.append(charge)
        self.flush(MAX_IN_FLIGHT if charge.bits.is_pending else 0)

    def flush(self, left: int = 0) -> None:
        """Write down charges in their order, all but the last `left`. Raises where one is not finite."""
        while len(self.pending) > left:
            windows, due, track = self.pending.popleft()
            bits = due.wait()
            if not math.isfinite(found := math.fsum(bits.tolist())):
                place = f"targets from {windows[0].first_target}"
                raise BitgolfError("the player returned logits that are not finite", where=place)
            for window, own in zip(windows, bits.split([w.stop - w.first_target for w in windows]), strict=True):
                self._record(window, own)
            track.append(found)
            self._report(len(bits), found)

    def _record(self, window: ScoringWindow, bits: Tensor) -> None:
        """Put down what a window's targets cost, (n,)."""
        self.scored[window.first_target : window.stop] += 1
        self.read_by[window.first_target] += window.stop - window.start
        if self.charges is not None:
            self.charges[window.first_target : window.stop] = bits.numpy()

    def _report(self, targets: int, bits: float) -> None:
        self.done, self.bits = self.done + targets, self.bits + bits
        if self.progress:
            self.progress(self.done, len(self.scored), self.bits)


def _score_section(desk: _ScoreState, section: TextSection, distributed: DistributedContext) -> float:
    """Bits of a section: this process plays its share of the tracks; the sum is over tracks, in their order."""
    bits = list[list[float]]()  # of each track's blocks
    for i, track in enumerate(section.batches):
        bits.append([])
        if i % distributed.world_size == distributed.rank:
            _score_batch(desk, track, bits[-1])
    desk.flush()
    sums = torch.tensor([math.fsum(own) for own in bits], dtype=torch.float64, device=distributed.device)
    return math.fsum(all_reduce_sum(sums, distributed).tolist())


def _score_batch(desk: _ScoreState, track: TextBatch, bits: list[float]) -> None:
    """Round after round, a window of each open text, whose sums of bits join `bits`; the player observes what is scored."""
    for number, (windows, fresh) in enumerate(_batch_rounds(track)):
        block = _collate(desk.tokens, windows, fresh, opens=number == 0)
        logits = desk.player.predict(block)
        live = [w for w in windows if w]
        targets = torch.cat([desk.tokens[w.first_target + 1 : w.stop + 1] for w in live])
        wanted = (len(targets), desk.player.vocab)
        if tuple(logits.shape) != wanted:
            cause = f"the player returned logits of shape {tuple(logits.shape)}, not {wanted}"
            raise BitgolfError(cause, where="score")
        charged = DeviceToHostCopy(token_bits(logits, copy_to_device(targets, logits.device)))
        desk.add(_PendingBits(live, charged, bits))
        desk.player.observe(block, targets)


def _batch_rounds(track: TextBatch) -> Iterator[tuple[list[ScoringWindow | None], list[bool]]]:
    """The windows side by side, None in a row that has no more texts, and the rows where another text begins."""
    waiting = iter(track.texts)
    rows: list[Iterator[ScoringWindow]] = [iter(()) for _ in range(track.rows)]
    while True:
        windows, fresh = list[ScoringWindow | None](), [False] * track.rows
        for i in range(track.rows):
            window = next(rows[i], None)
            while window is None and (text := next(waiting, None)) is not None:
                rows[i], fresh[i] = iter(text), True
                window = next(rows[i], None)
            windows.append(window)
        if not any(windows):
            return
        yield windows, fresh


def _collate(
    tokens: Tensor, windows: Sequence[ScoringWindow | None], fresh: Sequence[bool], *, opens: bool
) -> ScoringBatch:
    shown = [(tokens[w.start : w.stop], w.stop - w.first_target) if w else (tokens[:0], 0) for w in windows]
    return ScoringBatch.collate(shown, torch.tensor(fresh), opens)
