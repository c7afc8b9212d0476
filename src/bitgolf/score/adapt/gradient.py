"""Test-time training: gradient steps on a model's weights while it is scored, on tokens that are already scored.

The gradient of a step is the mean over all its targets. With several processes, the rows of a step are divided among
them and gradients are summed over all processes. So every process has the same weights, those of a single process up to
rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from bitgolf.config.ranges import (
    Betas,
    FractionBelowOne,
    LearningRate,
    NonNegative,
    Repetitions,
    ScoringRows,
    TokenCount,
    WeightDecayFactor,
    WindowTokensOrZero,
)
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

NO_PROGRESS = TrainingProgress(0, 0, 0.0, 0.0)
"""A placeholder for `UpdateAlgorithm.step`, which gets the learning rate as `lr_scale`."""


class SGDMomentum(UpdateAlgorithm):
    """SGD with heavy-ball momentum, like `torch.optim.SGD`: m <- momentum * m + g, W <- W - lr * m."""

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
    """Settings of test-time training with SGD on scored tokens.

    epochs: passes over the tokens. batch_size: sequences per step. sequence_length: targets per sequence; 0 for the
    window of the scoring method. split_documents: end sequences at document ends; a step then has more sequences, and
    as many targets. where, frozen: patterns (see `config.rules`) that select the trained parameters, those of `frozen`
    excluded; e.g. `where=("scale", "gate")`, or `frozen=("@blocks.0.**",)` for all but the first block.
    max_norm: limit for the gradient norm of a step, 0 for none. max_tokens: maximum tokens of one forward.
    Raises `RecipeError` for a setting out of range.
    """

    def __init__(
        self,
        *,
        lr: LearningRate = 0.002,
        momentum: FractionBelowOne = 0.9,
        epochs: Repetitions = 3,
        max_norm: NonNegative = 1.0,
        batch_size: ScoringRows = 32,
        sequence_length: WindowTokensOrZero = 0,
        split_documents: bool = False,
        where: tuple[str, ...] = ("*",),
        frozen: tuple[str, ...] = (),
        max_tokens: TokenCount = 8192,
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
        """The trained parameters by path. Raises `RecipeError` if a pattern selects none, or all are frozen."""
        roles = parameter_roles(model)
        selected = {path for pattern in self.where for path in _selected(pattern, roles, "where")}
        roles = {path: role for path, role in roles.items() if path in selected}
        frozen = {path for pattern in self.frozen for path in _selected(pattern, roles, "frozen")}
        if not selected - frozen:
            cause = f"frozen={self.frozen} excludes every selected parameter"
            raise RecipeError(cause, where="SGDAdaptation.frozen", hint="remove a pattern")
        return {path: model.get_parameter(path) for path in roles if path not in frozen}

    def sequences(self, tokens: Tensor, bos: int, sequence_length: int) -> list[ScoringWindow]:
        """Split the n targets of `tokens` (n + 1,) into sequences, in order, each target once."""
        targets = len(tokens) - 1
        inner = (tokens[1:-1] == bos).nonzero()[:, 0] + 1 if self.split_documents else tokens[:0]
        bounds = pairwise([0, *inner.tolist(), targets])
        firsts = [(first, stop) for start, stop in bounds for first in range(start, stop, sequence_length)]
        return [ScoringWindow(first, min(first + sequence_length, stop), first) for first, stop in firsts]

    def steps(self, tokens: Tensor, bos: int, sequence_length: int) -> list[list[ScoringWindow]]:
        """The rows of each step on `tokens` (n + 1,)."""
        return list(self.batches(self.sequences(tokens, bos, sequence_length), sequence_length))

    def target_weight(self, row: ScoringWindow, step: Sequence[ScoringWindow]) -> float:
        """Weight of each target of a row in the loss of a step, which is the mean over all targets."""
        return 1 / sum(w.stop - w.start for w in step)

    def longest_row(self, chunk: int, sequence_length: int) -> int:
        """Tokens of the longest row of a step on `chunk` targets; 0 if they are too few for a row."""
        return sequence_length

    def batches(self, sequences: Sequence[ScoringWindow], sequence_length: int) -> Iterator[list[ScoringWindow]]:
        """The sequences of each step: at most `batch_size * sequence_length` targets in total."""
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
    """Settings of test-time training with AdamW: those of `SGDAdaptation`, betas and decoupled weight decay."""

    def __init__(
        self,
        *,
        lr: LearningRate = 0.0005,
        betas: Betas = (0.9, 0.999),
        weight_decay: WeightDecayFactor = 0.0,
        epochs: Repetitions = 3,
        max_norm: NonNegative = 1.0,
        batch_size: ScoringRows = 32,
        sequence_length: WindowTokensOrZero = 0,
        split_documents: bool = False,
        where: tuple[str, ...] = ("*",),
        frozen: tuple[str, ...] = (),
        max_tokens: TokenCount = 8192,
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
    """Trains the weights of a model as specified by an `SGDAdaptation`, and can restore them.

    All processes of `distributed` must create it and call its methods together. window: sequence length if `sgd` has 0.
    chunk: largest number of targets that it will train on at once.
    """

    def __init__(
        self, sgd: SGDAdaptation, model: LM, device: Device, distributed: DistributedContext, *, window: int, chunk: int
    ) -> None:
        self.sequence_length = sgd.sequence_length or window
        self.sgd, self.model, self.device, self.distributed = sgd, model, device, distributed
        self.params: list[Tensor] = [*sgd.trainable_parameters(model).values()]
        self.original = [p.detach().clone() for p in self.params]
        longest = sgd.longest_row(chunk, self.sequence_length)
        self.loss = make_loss(model, device, at_once=sgd.max_tokens, longest=longest)
        self.changed = False  # whether the weights may differ from the original ones
        self.reset_optimizer()

    def reset_optimizer(self) -> None:
        """Reset the optimizer state. The weights are unchanged."""
        self.state = self.sgd.algorithm.init_state(self.params)

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the original weights exactly."""
        torch._foreach_copy_(self.params, self.original)
        self.changed = False
        self.reset_optimizer()

    def check_first(self, step: AdaptationStep) -> None:
        """Raises `BitgolfError` at the first step of a text if the model has already adapted to another text."""
        if not step.number and self.changed:
            cause = "the model has adapted to another text and was not restored"
            raise BitgolfError(cause, where="score", hint="close the player before the next text")

    def train_on(self, tokens: Tensor, rate: float = 1.0) -> None:
        """Train on revealed tokens (n + 1,), on the CPU; all but the first are targets.

        rate: factor for the learning rate. Raises `BitgolfError` if a gradient is not finite.
        """
        self.changed = True
        steps = self.sgd.steps(tokens, self.model.bos, self.sequence_length)
        with torch.enable_grad(), set_requires_grad(self.params, True):
            for rows in steps * self.sgd.epochs:
                self._step(tokens, rows, rate)

    def _step(self, tokens: Tensor, step: list[ScoringWindow], rate: float) -> None:
        # sorted by length and assigned to ranks round-robin, so that all ranks have about the same number of tokens
        rows = sorted(step, key=lambda w: w.start - w.stop)[self.distributed.rank :: self.distributed.world_size]
        by_weight: dict[float, list[ScoringWindow]] = {}
        for row in rows:
            by_weight.setdefault(self.sgd.target_weight(row, step), []).append(row)
        grads = self._all_reduce(self._gradient(tokens, by_weight))
        norm = clip_grad_norm_(grads, self.sgd.limit)
        if not norm.isfinite():
            cause = f"test-time training diverged: the gradient norm is {float(norm)}"
            raise BitgolfError(cause, where="score", hint="set a lower learning rate, or max_norm=1.0")
        self.sgd.algorithm.step(self.params, grads, self.state, NO_PROGRESS, rate)

    def _gradient(self, tokens: Tensor, by_weight: Mapping[float, Sequence[ScoringWindow]]) -> list[Tensor]:
        """Gradients of the weighted sum of nats over all targets; zeros without rows, or for unused parameters.

        by_weight: weight of a target -> the rows whose targets have it.
        """
        sums = [torch.zeros_like(p) for p in self.params]
        for weight, rows in by_weight.items():
            for batch in batch_windows(rows, self.sgd.max_tokens):
                own = [w for text in batch.texts for w in text]
                inputs = pad_sequence([tokens[w.start : w.stop] for w in own], batch_first=True)
                targets = pad_sequence([tokens[w.start + 1 : w.stop + 1] for w in own], True, IGNORE_INDEX)
                for loss in self.loss(inputs, targets):
                    gradient = torch.autograd.grad(loss * weight, self.params, materialize_grads=True)
                    torch._foreach_add_(sums, gradient)
        return sums

    def _all_reduce(self, grads: list[Tensor]) -> list[Tensor]:
        """Sum gradients over all processes, in one buffer."""
        flat = all_reduce_sum(torch.cat([g.reshape(-1) for g in grads]), self.distributed)
        pieces = flat.split([g.numel() for g in grads])
        return [piece.view_as(g).to(g.dtype) for piece, g in zip(pieces, grads, strict=True)]


def cosine_decay(done: int, steps: int) -> float:
    """Learning-rate factor: a half cosine from 1 at step 0 to 0 at step `steps`."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done / max(steps, 1))))


def _selected(pattern: str, roles: dict[str, str], where: str) -> list[str]:
    """Paths of the parameters that a pattern selects. Raises `RecipeError` if there are none."""
    if found := [path for path, role in roles.items() if selects(pattern, role, path)]:
        return found
    known = ", ".join(sorted(set(roles.values())))
    raise RecipeError(f"{pattern!r} selects no parameter (roles here: {known})", where=f"SGDAdaptation.{where}")


def _at_least(low: int, value: float, where: str) -> None:
    if not value >= low:
        raise RecipeError(f"expected at least {low}, got {value}", where=where)
