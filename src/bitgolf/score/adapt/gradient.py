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
from bitgolf.model.parameters import parameter_roles, set_requires_grad
from bitgolf.optim.adam import Adam
from bitgolf.optim.algorithm import OptimizerState, UpdateAlgorithm
from bitgolf.optim.clip import clip_grad_norm_
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import DistributedContext, all_reduce_sum
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.score.adapt.loss import IGNORE_INDEX, make_loss
from bitgolf.score.methods import ScoringWindow, batch_windows
from bitgolf.score.player import AdaptationStep

NO_PROGRESS = TrainingProgress(0, 0, 0.0, 0.0)  # there is no training clock here: rates come with the call


class SGDMomentum(UpdateAlgorithm):
    """m <- momentum m + g, W <- W - lr m: plain descent with heavy-ball momentum, as `torch.optim.SGD` has it."""

    def __init__(self, *, lr: float, momentum: float) -> None:
        self.lr, self.momentum = lr, momentum

    def init_state(self, params: list[Tensor]) -> OptimizerState:
        return {"momentum": [torch.zeros_like(p) for p in params]}

    @torch.no_grad()
    def step(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        state: OptimizerState,
        progress: TrainingProgress,
        lr_scale: float,
    ) -> None:
        torch._foreach_mul_(state["momentum"], self.momentum)
        torch._foreach_add_(state["momentum"], grads)
        torch._foreach_add_(params, state["momentum"], alpha=-self.lr * lr_scale)


@register
class SGDAdaptation:
    """How weights follow revealed tokens: `epochs` times over them, in steps of `batch_size` sequences of `sequence_length` targets.

    A length of 0 is that of the windows that are scored. With `split_documents`, a sequence ends where a document does, and a
    step has as many targets in more, shorter ones. What learns are the parameters that `where` selects (see `rules`),
    `frozen` left out: `where=("scale", "gate")` for control tensors alone, `frozen=("@blocks.0.**",)` for all but the
    first block. Every pattern must select something.
    `max_norm` bounds the norm of a step's gradient, 0 does not; `max_tokens` bounds the tokens of one forward.
    """

    def __init__(
        self,
        *,
        lr: float = 0.002,
        momentum: float = 0.9,
        epochs: int = 3,
        max_norm: float = 1.0,
        batch_size: int = 32,
        sequence_length: int = 0,
        split_documents: bool = False,
        where: tuple[str, ...] = ("*",),
        frozen: tuple[str, ...] = (),
        max_tokens: int = 8192,
    ) -> None:
        for name, value in {
            "lr": lr,
            "momentum": momentum,
            "epochs": epochs,
            "max_norm": max_norm,
            "sequence_length": sequence_length,
        }.items():
            _at_least(0, value, f"SGDAdaptation.{name}")
        for name, value in {"batch_size": batch_size, "max_tokens": max_tokens}.items():
            _at_least(1, value, f"SGDAdaptation.{name}")
        self.algorithm: UpdateAlgorithm = SGDMomentum(lr=lr, momentum=momentum)
        self.epochs, self.limit = epochs, max_norm or math.inf
        self.batch_size, self.sequence_length, self.split_documents, self.max_tokens = (
            batch_size,
            sequence_length,
            split_documents,
            max_tokens,
        )
        self.where, self.frozen = where, frozen

    def trainable_parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that learn, by path. Raises `RecipeError` for a pattern that selects none."""
        left = parameter_roles(model)
        wanted = {path for pattern in self.where for path in _selected(pattern, left, "where")}
        left = {path: role for path, role in left.items() if path in wanted}
        kept = {path for pattern in self.frozen for path in _selected(pattern, left, "frozen")}
        if not wanted - kept:
            raise RecipeError("every parameter is frozen: nothing learns", where="SGDAdaptation.frozen")
        return {path: model.get_parameter(path) for path in left if path not in kept}

    def sequences(self, tokens: Tensor, bos: int, sequence_length: int) -> list[ScoringWindow]:
        """What is read as one sequence, every target of `tokens` (n + 1,) once, in their order."""
        targets = len(tokens) - 1
        inner = (tokens[1:-1] == bos).nonzero()[:, 0] + 1 if self.split_documents else tokens[:0]
        bounds = pairwise([0, *inner.tolist(), targets])
        firsts = [(first, stop) for start, stop in bounds for first in range(start, stop, sequence_length)]
        return [ScoringWindow(first, min(first + sequence_length, stop), first) for first, stop in firsts]

    def batches(self, sequences: Sequence[ScoringWindow], sequence_length: int) -> Iterator[list[ScoringWindow]]:
        """Sequences of one step: as many as have no more targets than `batch_size` of the full length."""
        batch, held = list[ScoringWindow](), 0
        for row in sequences:
            if held + row.stop - row.start > self.batch_size * sequence_length:
                yield batch
                batch, held = [], 0
            batch.append(row)
            held += row.stop - row.start
        if batch:
            yield batch


@register
class AdamWAdaptation(SGDAdaptation):
    """The same with Adam in the place of momentum, and decoupled weight decay."""

    def __init__(
        self,
        *,
        lr: float = 0.0005,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        epochs: int = 3,
        max_norm: float = 1.0,
        batch_size: int = 32,
        sequence_length: int = 0,
        split_documents: bool = False,
        where: tuple[str, ...] = ("*",),
        frozen: tuple[str, ...] = (),
        max_tokens: int = 8192,
    ) -> None:
        super().__init__(
            lr=lr,
            epochs=epochs,
            max_norm=max_norm,
            batch_size=batch_size,
            sequence_length=sequence_length,
            split_documents=split_documents,
            where=where,
            frozen=frozen,
            max_tokens=max_tokens,
        )
        self.algorithm = Adam(lr=lr, betas=betas, weight_decay=weight_decay)


class WeightAdapter:
    """A model that learns as an `SGDAdaptation` says, the state of its optimizer, and the weights as they were.

    Made, and asked to learn, by every process of `distributed` alike. `window`: the length of sequences if `sgd` sets none.
    """

    def __init__(
        self, sgd: SGDAdaptation, model: LM, device: Device, distributed: DistributedContext, *, window: int
    ) -> None:
        self.sequence_length = sgd.sequence_length or window
        self.sgd, self.model, self.device, self.distributed = sgd, model, device, distributed
        self.params: list[Tensor] = [*sgd.trainable_parameters(model).values()]
        self.original = [p.detach().clone() for p in self.params]
        self.loss = make_loss(model, device, at_once=sgd.max_tokens, longest=self.sequence_length)
        self.changed = False  # whether the weights are other than they were found
        self.reset_optimizer()

    def reset_optimizer(self) -> None:
        """Forget the gradients of the past; the weights stay."""
        self.state = self.sgd.algorithm.init_state(self.params)

    @torch.no_grad()
    def restore(self) -> None:
        """The weights as they were found, bit for bit."""
        torch._foreach_copy_(self.params, self.original)
        self.changed = False
        self.reset_optimizer()

    def check_first(self, step: AdaptationStep) -> None:
        """Raises `BitgolfError` at a text's first step if the weights have learned from another text before."""
        if not step.number and self.changed:
            raise BitgolfError("the weights have learned from another text: a player plays one text", where="score")

    def train_on(self, tokens: Tensor, rate: float = 1.0) -> None:
        """From revealed tokens (n + 1,), on the CPU, every one but the first as a target; the learning rate is the
        setting's times `rate`. Raises where gradients are not finite.
        """
        self.changed = True
        sequences = self.sgd.sequences(tokens, self.model.bos, self.sequence_length)
        batches = list(self.sgd.batches(sequences, self.sequence_length))
        with torch.enable_grad(), set_requires_grad(self.params, True):
            for batch in [*batches] * self.sgd.epochs:
                self._step(tokens, batch, rate)

    def _step(self, tokens: Tensor, batch: list[ScoringWindow], rate: float) -> None:
        rows = sorted(batch, key=lambda w: w.start - w.stop)  # dealt out like cards, so that each has as much to read
        grads = self._all_reduce(self._gradient(tokens, rows[self.distributed.rank :: self.distributed.world_size]))
        torch._foreach_div_(grads, float(sum(w.stop - w.start for w in batch)))
        if not clip_grad_norm_(grads, self.sgd.limit).isfinite():
            raise BitgolfError(
                "the weights that learn while scoring have run away: their gradient is not finite",
                where="score",
                hint="a lower learning rate, or max_norm=1.0",
            )
        self.sgd.algorithm.step(self.params, grads, self.state, NO_PROGRESS, rate)

    def _gradient(self, tokens: Tensor, rows: list[ScoringWindow]) -> list[Tensor]:
        """Of the nats of all targets of these rows; zeros where there is no row, or nothing uses a parameter."""
        sums = [torch.zeros_like(p) for p in self.params]
        for track in batch_windows(rows, self.sgd.max_tokens):
            own = [w for text in track.texts for w in text]
            inputs = pad_sequence([tokens[w.start : w.stop] for w in own], batch_first=True)
            targets = pad_sequence([tokens[w.start + 1 : w.stop + 1] for w in own], True, IGNORE_INDEX)
            for loss in self.loss(inputs, targets):
                torch._foreach_add_(sums, torch.autograd.grad(loss, self.params, materialize_grads=True))
        return sums

    def _all_reduce(self, grads: list[Tensor]) -> list[Tensor]:
        """Over all processes: one buffer, one sum."""
        flat = all_reduce_sum(torch.cat([g.reshape(-1) for g in grads]), self.distributed)
        pieces = flat.split([g.numel() for g in grads])
        return [piece.view_as(g).to(g.dtype) for piece, g in zip(pieces, grads, strict=True)]


def cosine_decay(done: int, steps: int) -> float:
    """From 1, where nothing is done, down to 0 after `steps`."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done / max(steps, 1))))


def _selected(pattern: str, roles: dict[str, str], where: str) -> list[str]:
    if found := [path for path, role in roles.items() if selects(pattern, role, path)]:
        return found
    known = ", ".join(sorted(set(roles.values())))
    raise RecipeError(f"{pattern!r} selects no parameter (roles here: {known})", where=f"SGDAdaptation.{where}")


def _at_least(low: int, value: float, where: str) -> None:
    if not value >= low:
        raise RecipeError(f"expected at least {low}, got {value}", where=where)
