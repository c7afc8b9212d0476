"""The referee: owns the text, the order of reveal, the normalisation and the byte counts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitgolf.errors import BitgolfError
from bitgolf.score.player import Block, Player
from bitgolf.score.text import Text
from bitgolf.score.windows import Method, Section, Track, Window
from bitgolf.world import ALONE, World, total

Progress = Callable[[int, int, float], None]  # targets done, targets in all, bits so far; of this process
Charges = npt.NDArray[np.float64]
PIECE = 1 << 10  # targets whose bits are summed at a time: float64 copies of their logits are all that this needs


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
    progress: Progress | None = None,
    charges: Charges | None = None,
) -> Score:
    """Score every target of `text` exactly once. Every process of `world` calls it and has the same totals.

    charges: float64 [targets], is filled with the bits of each target that this process scores.
    Memory, beyond the player's own: 16 bytes a target (24 with `charges`); with n = max(batch_tokens, window), the
    logits of at most n targets, 4 n V bytes and as much again in the player's own precision; 3 x 8 x PIECE x V for their
    bits. So `batch_tokens` bounds it, and a player that keeps nothing between blocks needs activations of n tokens.
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
            player.adapt(desk.tokens[section.start : section.stop + 1].clone())  # a view would reach the rest
    scored, read = total(torch.stack([desk.scored, desk.read_by]).to(world.device), world).cpu()
    if not bool((scored == 1).all()):
        wrong = int((scored != 1).nonzero()[0])
        raise BitgolfError(f"{method.name} scored target {wrong} {int(scored[wrong])} times", place="score")
    return Score(method.name, bits, text.bytes, text.targets, int(read.sum()), time.perf_counter() - started)


class _Desk:
    """What the referee keeps while it scores: which targets are done, and what it tells those who wait."""

    def __init__(self, player: Player, text: Text, progress: Progress | None, charges: Charges | None) -> None:
        self.player, self.progress, self.charges = player, progress, charges
        self.tokens = torch.from_numpy(np.asarray(text.tokens, dtype=np.int64))
        self.scored = torch.zeros(text.targets, dtype=torch.int32)
        self.read_by = torch.zeros(text.targets, dtype=torch.int32)  # tokens read, put down at the targets they served
        self.done, self.bits = 0, 0.0

    def file(self, window: Window, bits: Tensor) -> None:
        """Put down what a window's targets cost, (n,)."""
        self.scored[window.first : window.stop] += 1
        self.read_by[window.first] += window.stop - window.start
        if self.charges is not None:
            self.charges[window.first : window.stop] = bits.numpy()

    def tell(self, targets: int, bits: float) -> None:
        self.done, self.bits = self.done + targets, self.bits + bits
        if self.progress:
            self.progress(self.done, len(self.scored), self.bits)


def _section(desk: _Desk, section: Section, world: World) -> float:
    """Bits of a section: this process plays its share of the tracks; the sum is over tracks, in their order."""
    bits = list[float]()
    for i, track in enumerate(section.tracks):
        bits.append(_track(desk, track) if i % world.size == world.rank else 0.0)
    return math.fsum(total(torch.tensor(bits, dtype=torch.float64, device=world.device), world).tolist())


def _track(desk: _Desk, track: Track) -> float:
    """Bits of a track: round after round, a window of each open text; the player observes only what is scored."""
    bits = list[float]()
    for windows, fresh in _rounds(track):
        block = _block(desk.tokens, windows, fresh)
        logits = desk.player.predict(block)
        live = [w for w in windows if w]
        targets = torch.cat([desk.tokens[w.first + 1 : w.stop + 1] for w in live])
        wanted = (len(targets), desk.player.vocab)
        if tuple(logits.shape) != wanted:
            cause = f"the player returned logits of shape {tuple(logits.shape)}, not {wanted}"
            raise BitgolfError(cause, place="score")
        charged = token_bits(logits, targets.to(logits.device)).cpu()
        if not math.isfinite(found := math.fsum(charged.tolist())):
            raise BitgolfError("the player returned logits that are not finite", place=f"targets from {live[0].first}")
        for window, own in zip(live, charged.split([w.stop - w.first for w in live]), strict=True):
            desk.file(window, own)
        desk.player.observe(block, targets)
        desk.tell(len(targets), found)
        bits.append(found)
    return math.fsum(bits)


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


def _block(tokens: Tensor, windows: Sequence[Window | None], fresh: Sequence[bool]) -> Block:
    shown = [(tokens[w.start : w.stop], w.stop - w.first) if w else (tokens[:0], 0) for w in windows]
    return Block.of(shown, torch.tensor(fresh))


def token_bits(logits: Tensor, targets: Tensor) -> Tensor:
    """-log2 p of each target under softmax(logits), normalised here over the whole vocabulary; float64."""
    pieces = zip(logits.split(PIECE), targets.split(PIECE), strict=True)
    return torch.cat([_bits(part.double(), chosen) for part, chosen in pieces])


def _bits(logits: Tensor, targets: Tensor) -> Tensor:
    chosen = logits.gather(-1, targets[..., None])[..., 0]
    return (torch.logsumexp(logits, -1) - chosen) / math.log(2)
