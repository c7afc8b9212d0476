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
from bitgolf.runtime.distributed import ALONE, World, total
from bitgolf.score.callbacks import ProgressCallback
from bitgolf.score.execution.async_copy import Download, upload
from bitgolf.score.methods import Method, Section, Track, Window
from bitgolf.score.player import Block, Player
from bitgolf.score.text import Text
from bitgolf.score.token_bits import token_bits

Charges = npt.NDArray[np.float64]
AHEAD = 3  # blocks whose bits may still be on their way from the device while the next one is being prepared


class Score(NamedTuple):
    """Bits are summed in float64, bytes are those of the raw text: two sums, one division.

    read: tokens that the model read for it; targets / read is the share of its work that is no recomputation.
    charged: bits that the order of the documents costs (`orders`), on top of those of the targets.
    """

    method: str
    bits: float
    bytes: int
    targets: int
    read: int
    seconds: float
    charged: int = 0

    @property
    def bpb(self) -> float:
        return (self.bits + self.charged) / self.bytes


def score(
    player: Player,
    text: Text,
    method: Method,
    *,
    world: World = ALONE,
    batch_tokens: int = 4096,
    progress: ProgressCallback | None = None,
    charges: Charges | None = None,
) -> Score:
    """Score every target of `text` exactly once. Every process of `world` calls it and has the same totals.

    charges: float64 [targets], is filled with the bits of each target that this process scores.
    Memory, beyond the player's own: 16 bytes a target (24 with `charges`); with n = max(batch_tokens, window), the
    logits of at most n targets, 4 n V bytes and as much again in the player's own precision, and what `token_bits` needs.
    So `batch_tokens` bounds it, and a player that keeps nothing between blocks needs activations of n tokens.
    Raises where a player's logits are not a distribution's.
    """
    if text.targets < 1 or text.bytes < 1:
        raise BitgolfError("there is nothing to score: the text is empty", place="score")
    largest = int(text.tokens.max())
    if largest >= player.vocab:
        raise BitgolfError(f"the text holds token {largest}, the model knows {player.vocab}", place="score")
    started, desk = time.perf_counter(), _Desk(player, text, progress, charges)
    bits = 0.0
    for section in method.sections(text, batch_tokens):
        bits += _section(desk, section, world)
        if method.adapts:
            revealed = desk.tokens[section.start : section.stop + 1].clone()  # a view would reach the rest
            player.adapt(revealed, section.step)
    scored, read = total(torch.stack([desk.scored, desk.read_by]).to(world.device), world).cpu()
    if not bool((scored == 1).all()):
        wrong = int((scored != 1).nonzero()[0])
        raise BitgolfError(f"{method.name} scored target {wrong} {int(scored[wrong])} times", place="score")
    return Score(method.name, bits, text.bytes, text.targets, int(read.sum()), time.perf_counter() - started)


class _Charge(NamedTuple):
    """The bits of a block's targets, on their way from the device; their sum joins those of the block's track."""

    windows: Sequence[Window]
    bits: Download
    track: list[float]


class _Desk:
    """What the referee keeps while it scores: which targets are done, and what it tells those who wait."""

    def __init__(self, player: Player, text: Text, progress: ProgressCallback | None, charges: Charges | None) -> None:
        self.player, self.progress, self.charges = player, progress, charges
        self.tokens = torch.from_numpy(np.asarray(text.tokens, dtype=np.int64))
        self.scored = torch.zeros(text.targets, dtype=torch.int32)
        self.read_by = torch.zeros(text.targets, dtype=torch.int32)  # tokens read, put down at the targets they served
        self.done, self.bits = 0, 0.0
        self.charges_due = deque[_Charge]()

    def charge(self, charge: _Charge) -> None:
        """Note what a block's targets cost; write it down at once on the CPU, else when the device has come so far."""
        self.charges_due.append(charge)
        self.settle(AHEAD if charge.bits.pending else 0)

    def settle(self, left: int = 0) -> None:
        """Write down charges in their order, all but the last `left`. Raises where one is not finite."""
        while len(self.charges_due) > left:
            windows, due, track = self.charges_due.popleft()
            bits = due.wait()
            if not math.isfinite(found := math.fsum(bits.tolist())):
                place = f"targets from {windows[0].first}"
                raise BitgolfError("the player returned logits that are not finite", place=place)
            for window, own in zip(windows, bits.split([w.stop - w.first for w in windows]), strict=True):
                self._file(window, own)
            track.append(found)
            self._tell(len(bits), found)

    def _file(self, window: Window, bits: Tensor) -> None:
        """Put down what a window's targets cost, (n,)."""
        self.scored[window.first : window.stop] += 1
        self.read_by[window.first] += window.stop - window.start
        if self.charges is not None:
            self.charges[window.first : window.stop] = bits.numpy()

    def _tell(self, targets: int, bits: float) -> None:
        self.done, self.bits = self.done + targets, self.bits + bits
        if self.progress:
            self.progress(self.done, len(self.scored), self.bits)


def _section(desk: _Desk, section: Section, world: World) -> float:
    """Bits of a section: this process plays its share of the tracks; the sum is over tracks, in their order."""
    bits = list[list[float]]()  # of each track's blocks
    for i, track in enumerate(section.tracks):
        bits.append([])
        if i % world.size == world.rank:
            _track(desk, track, bits[-1])
    desk.settle()
    sums = torch.tensor([math.fsum(own) for own in bits], dtype=torch.float64, device=world.device)
    return math.fsum(total(sums, world).tolist())


def _track(desk: _Desk, track: Track, bits: list[float]) -> None:
    """Round after round, a window of each open text, whose sums of bits join `bits`; the player observes what is scored."""
    for number, (windows, fresh) in enumerate(_rounds(track)):
        block = _block(desk.tokens, windows, fresh, opens=number == 0)
        logits = desk.player.predict(block)
        live = [w for w in windows if w]
        targets = torch.cat([desk.tokens[w.first + 1 : w.stop + 1] for w in live])
        wanted = (len(targets), desk.player.vocab)
        if tuple(logits.shape) != wanted:
            cause = f"the player returned logits of shape {tuple(logits.shape)}, not {wanted}"
            raise BitgolfError(cause, place="score")
        charged = Download(token_bits(logits, upload(targets, logits.device)))
        desk.charge(_Charge(live, charged, bits))
        desk.player.observe(block, targets)


def _rounds(track: Track) -> Iterator[tuple[list[Window | None], list[bool]]]:
    """The windows side by side, None in a row that has no more texts, and the rows where another text begins."""
    waiting = iter(track.texts)
    rows: list[Iterator[Window]] = [iter(()) for _ in range(track.rows)]
    while True:
        windows, fresh = list[Window | None](), [False] * track.rows
        for i in range(track.rows):
            window = next(rows[i], None)
            while window is None and (text := next(waiting, None)) is not None:
                rows[i], fresh[i] = iter(text), True
                window = next(rows[i], None)
            windows.append(window)
        if not any(windows):
            return
        yield windows, fresh


def _block(tokens: Tensor, windows: Sequence[Window | None], fresh: Sequence[bool], *, opens: bool) -> Block:
    shown = [(tokens[w.start : w.stop], w.stop - w.first) if w else (tokens[:0], 0) for w in windows]
    return Block.of(shown, torch.tensor(fresh), opens)
