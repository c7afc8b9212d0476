"""Gradient steps on a model's own weights while it is scored, on tokens whose score is already written down.

Gradients are sums over the targets of a whole step, divided by their number: what one process with all rows computes.
Each process takes its share of a step's rows, joins every sum, also with no row, and ends with the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from bitgolf.config.registry import register
from bitgolf.config.rules import selects
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.model.lm import LM
from bitgolf.model.parameters import roles, taking_gradients
from bitgolf.optim.adam import Adam
from bitgolf.optim.algorithm import Algorithm, State
from bitgolf.optim.clip import clip_by_norm
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import World, total
from bitgolf.runtime.progress import Now
from bitgolf.score.adapt.loss import NOTHING, nats_of
from bitgolf.score.methods import Window, tracks_of
from bitgolf.score.player import AdaptationStep

NOW = Now(0, 0, 0.0, 0.0)  # there is no training clock here: rates come with the call


class Momentum(Algorithm):
    """m <- momentum m + g, W <- W - lr m: plain descent with heavy-ball momentum, as `torch.optim.SGD` has it."""

    def __init__(self, *, lr: float, momentum: float) -> None:
        self.lr, self.momentum = lr, momentum

    def start(self, params: list[Tensor]) -> State:
        return {"momentum": [torch.zeros_like(p) for p in params]}

    @torch.no_grad()
    def step(self, params: list[Tensor], grads: list[Tensor], state: State, now: Now, lr_scale: float) -> None:
        torch._foreach_mul_(state["momentum"], self.momentum)
        torch._foreach_add_(state["momentum"], grads)
        torch._foreach_add_(params, state["momentum"], alpha=-self.lr * lr_scale)


@register
class Sgd:
    """How weights follow revealed tokens: `epochs` times over them, in steps of `batch` sequences of `length` targets.

    A length of 0 is that of the windows that are scored. With `documents`, a sequence ends where a document does, and a
    step has as many targets in more, shorter ones. What learns are the parameters that `where` selects (see `rules`),
    `frozen` left out: `where=("scale", "gate")` for control tensors alone, `frozen=("@blocks.0.**",)` for all but the
    first block. Every pattern must select something.
    `clip` bounds the norm of a step's gradient, 0 does not; `at_once` bounds the tokens of one forward.
    """

    def __init__(
        self,
        *,
        lr: float = 0.002,
        momentum: float = 0.9,
        epochs: int = 3,
        clip: float = 1.0,
        batch: int = 32,
        length: int = 0,
        documents: bool = False,
        where: tuple[str, ...] = ("*",),
        frozen: tuple[str, ...] = (),
        at_once: int = 8192,
    ) -> None:
        for name, value in {"lr": lr, "momentum": momentum, "epochs": epochs, "clip": clip, "length": length}.items():
            _at_least(0, value, f"Sgd.{name}")
        for name, value in {"batch": batch, "at_once": at_once}.items():
            _at_least(1, value, f"Sgd.{name}")
        self.algorithm: Algorithm = Momentum(lr=lr, momentum=momentum)
        self.epochs, self.limit = epochs, clip or math.inf
        self.batch, self.length, self.documents, self.at_once = batch, length, documents, at_once
        self.where, self.frozen = where, frozen

    def chosen(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that learn, by path. Raises `RecipeError` for a pattern that selects none."""
        left = roles(model)
        wanted = {path for pattern in self.where for path in _selected(pattern, left, "where")}
        left = {path: role for path, role in left.items() if path in wanted}
        kept = {path for pattern in self.frozen for path in _selected(pattern, left, "frozen")}
        if not wanted - kept:
            raise RecipeError("every parameter is frozen: nothing learns", place="Sgd.frozen")
        return {path: model.get_parameter(path) for path in left if path not in kept}

    def sequences(self, tokens: Tensor, bos: int, sequence_length: int) -> list[Window]:
        """What is read as one sequence, every target of `tokens` (n + 1,) once, in their order."""
        targets = len(tokens) - 1
        inner = (tokens[1:-1] == bos).nonzero()[:, 0] + 1 if self.documents else tokens[:0]
        bounds = pairwise([0, *inner.tolist(), targets])
        firsts = [(first, stop) for start, stop in bounds for first in range(start, stop, sequence_length)]
        return [Window(first, min(first + sequence_length, stop), first) for first, stop in firsts]

    def batches(self, sequences: Sequence[Window], sequence_length: int) -> Iterator[list[Window]]:
        """Sequences of one step: as many as have no more targets than `batch` of the full length."""
        batch, held = list[Window](), 0
        for row in sequences:
            if held + row.stop - row.start > self.batch * sequence_length:
                yield batch
                batch, held = [], 0
            batch.append(row)
            held += row.stop - row.start
        if batch:
            yield batch


@register
class AdamW(Sgd):
    """The same with Adam in the place of momentum, and decoupled weight decay."""

    def __init__(
        self,
        *,
        lr: float = 0.0005,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        epochs: int = 3,
        clip: float = 1.0,
        batch: int = 32,
        length: int = 0,
        documents: bool = False,
        where: tuple[str, ...] = ("*",),
        frozen: tuple[str, ...] = (),
        at_once: int = 8192,
    ) -> None:
        super().__init__(
            lr=lr,
            epochs=epochs,
            clip=clip,
            batch=batch,
            length=length,
            documents=documents,
            where=where,
            frozen=frozen,
            at_once=at_once,
        )
        self.algorithm = Adam(lr=lr, betas=betas, weight_decay=weight_decay)


class Learner:
    """A model that learns as an `Sgd` says, the state of its optimizer, and the weights as they were.

    Made, and asked to learn, by every process of `world` alike. `window`: the length of sequences if `sgd` sets none.
    """

    def __init__(self, sgd: Sgd, model: LM, device: Device, world: World, *, window: int) -> None:
        self.sequence_length = sgd.length or window
        self.sgd, self.model, self.device, self.world = sgd, model, device, world
        self.params: list[Tensor] = [*sgd.chosen(model).values()]
        self.before = [p.detach().clone() for p in self.params]
        self.nats = nats_of(model, device, at_once=sgd.at_once, longest=self.sequence_length)
        self.changed = False  # whether the weights are other than they were found
        self.begin()

    def begin(self) -> None:
        """Forget the gradients of the past; the weights stay."""
        self.state = self.sgd.algorithm.start(self.params)

    @torch.no_grad()
    def restore(self) -> None:
        """The weights as they were found, bit for bit."""
        torch._foreach_copy_(self.params, self.before)
        self.changed = False
        self.begin()

    def check_first(self, step: AdaptationStep) -> None:
        """Raises `BitgolfError` at a text's first step if the weights have learned from another text before."""
        if not step.number and self.changed:
            raise BitgolfError("the weights have learned from another text: a player plays one text", place="score")

    def learn(self, tokens: Tensor, rate: float = 1.0) -> None:
        """From revealed tokens (n + 1,), on the CPU, every one but the first as a target; the learning rate is the
        setting's times `rate`. Raises where gradients are not finite.
        """
        self.changed = True
        sequences = self.sgd.sequences(tokens, self.model.bos, self.sequence_length)
        batches = list(self.sgd.batches(sequences, self.sequence_length))
        with torch.enable_grad(), taking_gradients(self.params, True):
            for batch in [*batches] * self.sgd.epochs:
                self._step(tokens, batch, rate)

    def _step(self, tokens: Tensor, batch: list[Window], rate: float) -> None:
        rows = sorted(batch, key=lambda w: w.start - w.stop)  # dealt out like cards, so that each has as much to read
        grads = self._summed(self._gradient(tokens, rows[self.world.rank :: self.world.size]))
        torch._foreach_div_(grads, float(sum(w.stop - w.start for w in batch)))
        if not clip_by_norm(grads, self.sgd.limit).isfinite():
            raise BitgolfError(
                "the weights that learn while scoring have run away: their gradient is not finite",
                place="score",
                mend="a lower learning rate, or clip=1.0",
            )
        self.sgd.algorithm.step(self.params, grads, self.state, NOW, rate)

    def _gradient(self, tokens: Tensor, rows: list[Window]) -> list[Tensor]:
        """Of the nats of all targets of these rows; zeros where there is no row, or nothing uses a parameter."""
        sums = [torch.zeros_like(p) for p in self.params]
        for track in tracks_of(rows, self.sgd.at_once):
            own = [w for text in track.texts for w in text]
            inputs = pad_sequence([tokens[w.start : w.stop] for w in own], batch_first=True)
            targets = pad_sequence([tokens[w.start + 1 : w.stop + 1] for w in own], True, NOTHING)
            for loss in self.nats(inputs, targets):
                torch._foreach_add_(sums, torch.autograd.grad(loss, self.params, materialize_grads=True))
        return sums

    def _summed(self, grads: list[Tensor]) -> list[Tensor]:
        """Over all processes: one buffer, one sum."""
        flat = total(torch.cat([g.reshape(-1) for g in grads]), self.world)
        pieces = flat.split([g.numel() for g in grads])
        return [piece.view_as(g).to(g.dtype) for piece, g in zip(pieces, grads, strict=True)]


def cosine(done: int, steps: int) -> float:
    """From 1, where nothing is done, down to 0 after `steps`."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done / max(steps, 1))))


def _selected(pattern: str, kinds: dict[str, str], place: str) -> list[str]:
    if found := [path for path, role in kinds.items() if selects(pattern, role, path)]:
        return found
    known = ", ".join(sorted(set(kinds.values())))
    raise RecipeError(f"{pattern!r} selects no parameter (roles here: {known})", place=f"Sgd.{place}")


def _at_least(low: int, value: float, place: str) -> None:
    if not value >= low:
        raise RecipeError(f"expected at least {low}, got {value}", place=place)
