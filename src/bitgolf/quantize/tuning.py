"""Tuning after rounding: the parameters that are stored as floats are trained while all others keep their stored values.

Scales, gains and gates have a share of a thousandth of the weights, and can compensate for some of the rounding error of
the matrices. The loss is the divergence from the averaged model's predictions on training text, which is less noisy than
the loss on the text, and whose minimum is the model that was trained. (AQLM, arXiv 2401.06118, section 3.3, tunes the
parameters that are not quantized in this way, by blocks.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.config.ranges import BatchRows, Count, LearningRate, Seconds, Seed, TokenCountOrZero
from bitgolf.config.registry import register
from bitgolf.model.lm import LM
from bitgolf.model.parameters import load_weights
from bitgolf.quantize.calibration.sources import CalibrationContext, TrainingText

TEST_BATCHES = 4
"""Batches on which the divergence is measured before and after."""
LEAST_SIZE = 0.01
"""A parameter of smaller root mean square is changed by steps as if it had this one."""


class TunedFloats(NamedTuple):
    """Path -> tuned values, float32 on the CPU, and the divergence before and after, in nats per token.

    The divergence is measured on other training text than that of the steps. If it did not fall, `values` is empty.
    """

    values: dict[str, Tensor]
    before: float
    after: float


@register
class FloatTuning:
    """Adam steps on the parameters whose codec is `Float`, on training text, after all others are rounded.

    steps: number of steps.  rows, length: of a batch; a length of 0 is that of training, at most 2,048.
    lr: first learning rate, as a fraction of the root mean square of each parameter; it falls linearly to zero.
    reserve: seconds by which training ends earlier. All steps are made even past it, with a warning.
    seed: of the order of the text.
    """

    def __init__(
        self,
        *,
        steps: Count = 100,
        rows: BatchRows = 4,
        length: TokenCountOrZero = 0,
        lr: LearningRate = 0.003,
        reserve: Seconds = 0.0,
        seed: Seed = 7,
    ) -> None:
        self.steps, self.lr, self.reserve = steps, lr, reserve
        self.source = TrainingText(batches=steps + TEST_BATCHES, rows=rows, length=length, seed=seed)

    def tune(
        self,
        subject: CalibrationContext,
        decoded: Mapping[str, Tensor],
        paths: Sequence[str],
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> TunedFloats:
        """Tune the parameters `paths` of a model with the weights `decoded`.

        subject: its model has the averaged weights, and is not changed.  decoded: path -> weights as stored.
        progress: called with (done, total) steps.
        """
        reference, batch = subject.model.eval(), self.source.open(subject)
        device = next(reference.parameters()).device
        model = deepcopy(reference)
        load_weights(model, {path: w.to(device) for path, w in decoded.items()})
        model.eval().requires_grad_(False)
        chosen = {path: p.requires_grad_() for path, p in model.named_parameters() if path in set(paths)}
        tests = [batch(self.steps + i).to(device) for i in range(TEST_BATCHES)]
        before = _mean_divergence(reference, model, tests, subject)
        groups = [{"params": [p], "lr": self.lr * max(LEAST_SIZE, _rms(p))} for p in chosen.values()]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / self.steps)
        with torch.enable_grad():
            for step in range(self.steps):
                optimizer.zero_grad()
                _divergence(reference, model, batch(step).to(device), subject).backward()
                optimizer.step()
                schedule.step()
                progress(step + 1, self.steps)
        after = _mean_divergence(reference, model, tests, subject)
        values = {path: p.detach().float().cpu() for path, p in chosen.items()} if after < before else {}
        return TunedFloats(values, before, after)


def _rms(p: Tensor) -> float:
    return float(p.detach().float().square().mean().sqrt())


def _divergence(reference: LM, model: LM, ids: Tensor, subject: CalibrationContext) -> Tensor:
    """KL divergence of the predictions of `model` from those of `reference`, (), in nats per token of ids (B, T)."""
    with torch.no_grad(), subject.autocast():
        wanted = reference(ids)
    with subject.autocast():
        found = model(ids)
    wanted, found = (x.float().log_softmax(-1).flatten(0, 1) for x in (wanted, found))
    return F.kl_div(found, wanted, reduction="batchmean", log_target=True)


@torch.no_grad()
def _mean_divergence(reference: LM, model: LM, batches: Sequence[Tensor], subject: CalibrationContext) -> float:
    return sum(float(_divergence(reference, model, ids, subject)) for ids in batches) / len(batches)
