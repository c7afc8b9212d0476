"""Synchronization in training: a step reads nothing from the device, and losses are read one step late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bitgolf.average.ema import EMA
from bitgolf.config.rules import Rule
from bitgolf.config.spec import part
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.muon_transforms import NorMuon, RowNorm
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training import loss_reporter
from bitgolf.training.loss_reporter import Diverged, LossReporter
from helpers.toy import toy_recipe
from helpers.toy_training import make_trainer

RULES = (
    part(
        Rule,
        where="matrix",
        use=part(Muon, weight_decay=0.1, pre_orthogonalize=(part(RowNorm),), post_orthogonalize=(part(NorMuon),)),
    ),
    part(Rule, where="*", use=part(Adam, lr=0.01, weight_decay=0.1, cautious_weight_decay=True)),
)


class Reads(TorchDispatchMode):
    """Counts reads of tensor values by the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
        return func(*args, **(kwargs or {}))


def test_reads_are_counted() -> None:
    with Reads() as reads:
        assert torch.ones(()).item() and torch.ones(2).any() and torch.equal(torch.ones(1), torch.ones(1))
    assert reads.count == 3


def test_a_step_reads_nothing_back(data: Path) -> None:
    """No loss, gradient norm or step count is read, with micro-batches, an average and cautious weight decay."""
    recipe = toy_recipe(steps=8).set("train.micro_rows", 2).set("train.grad_clip", 0.3).set("train.optim", RULES)
    trainer = make_trainer(data, recipe.set("average", part(EMA, decay=0.9)))
    trainer.step(0, TrainingProgress(0, 8, 0.0, 0.0))
    with Reads() as reads:
        trainer.step(1, TrainingProgress(1, 8, 0.0, 0.0))
    assert reads.count == 0


# ---- losses --------------------------------------------------------------------------------------------------------


class FakeScalar:
    """Records when it is created and read."""

    events: list[str] = []

    def __init__(self, value: Tensor) -> None:
        self.value = float(value)
        self.events.append(f"launched {self.value:g}")

    def read(self) -> float:
        self.events.append(f"read {self.value:g}")
        return self.value


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(loss_reporter, "AsyncScalar", FakeScalar)
    monkeypatch.setattr(FakeScalar, "events", [])
    return FakeScalar.events


def late_losses(data: Path, reports: list[tuple[int, float]], every: int) -> LossReporter:
    def report(kind: str, **fields: Any) -> None:
        reports.append((fields["step"], fields["loss"]))

    losses = LossReporter(make_trainer(data), report, lambda: 1.0, every=every)
    losses.lag = 1  # as on a GPU
    return losses


def test_a_gpu_loss_is_read_when_the_next_step_was_launched(data: Path, events: list[str]) -> None:
    reports: list[tuple[int, float]] = []
    losses = late_losses(data, reports, every=2)
    for step in range(1, 5):
        losses.record(step, 10 * step, torch.tensor(float(step)))
    assert events == ["launched 1", "launched 2", "read 1", "launched 3", "read 2", "launched 4", "read 3"]
    assert reports == [(1, 1.0), (2, 2.0)]
    losses.flush()
    assert reports == [(n, float(n)) for n in range(1, 5)] and losses.last == 4.0
    losses.flush()
    assert len(reports) == 4


def test_a_late_loss_that_is_not_finite_is_still_noticed(data: Path, events: list[str]) -> None:
    losses = late_losses(data, [], every=1)
    losses.record(1, 10, torch.tensor(float("nan")))
    with pytest.raises(Diverged, match="the loss is nan at step 1"):
        losses.record(2, 20, torch.tensor(1.0))


def test_a_cpu_reports_each_loss_at_once(data: Path) -> None:
    reports: list[int] = []
    losses = LossReporter(
        make_trainer(data), lambda kind, **fields: reports.append(fields["step"]), lambda: 1.0, every=1
    )
    losses.record(1, 10, torch.tensor(1.0))
    assert reports == [1]
