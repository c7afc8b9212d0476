"""Micro-batches by free memory: the forecast, the number of rows that fit, and running out of memory nevertheless."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch._functorch.config as functorch
from torch import Tensor, nn

from bitgolf.config.rules import Rule
from bitgolf.config.spec import part
from bitgolf.errors import BitgolfError
from bitgolf.optim.adam import Adam
from bitgolf.runtime.device import Device
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training import micro_batch
from bitgolf.training.activation_memory import activation_bytes, available_bytes, largest_micro_batch, max_micro_tokens
from bitgolf.training.execution_plan import ExecutionPlan, LossFunction
from bitgolf.training.micro_batch import ACTIVATION_BUDGETS, estimate_micro_batch, find_micro_batch
from bitgolf.training.trainer import Trainer
from helpers.toy import toy_recipe
from helpers.toy_training import make_trainer

CPU = Device(torch.device("cpu"), torch.float32, "a test")
LENGTH = 32  # of the toy recipe's rows, of which there are 4


# ---- the forecast --------------------------------------------------------------------------------------------------


class Simple(nn.Module):
    """Saves per token an index of 8 bytes, x of width 6 and tanh of width 10; optionally attention weights (T, T)."""

    def __init__(self, *, attention: bool = False) -> None:
        super().__init__()
        self.table, self.matrix = nn.Parameter(torch.ones(7, 6)), nn.Parameter(torch.ones(6, 10))
        self.attention = attention

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = (self.table[ids] @ self.matrix).tanh()
        if self.attention:
            x = (x @ x.mT).softmax(-1) @ x
        return x.sum()


@pytest.mark.parametrize("length", [9, 64, 4096, 98_304])
def test_the_forecast_counts_what_is_kept(length: int) -> None:
    assert activation_bytes(Simple, CPU, length) == 8 + 4 * 6 + 4 * 10


def test_attention_weights_are_left_out() -> None:
    assert activation_bytes(lambda: Simple(attention=True), CPU, 64) == activation_bytes(Simple, CPU, 64)


def test_products_in_bfloat16_keep_half() -> None:
    """The bfloat16 copies of weights do not grow with the batch, so they are not part of the forecast."""
    half = CPU._replace(compute_dtype=torch.bfloat16)
    assert activation_bytes(Simple, half, 64) == 8 + 2 * 6 + 2 * 10


def test_the_forecast_is_that_of_a_real_pass_and_changes_nothing(data: Path) -> None:
    """For the toy model: a pass on real tensors of a whole row, against fake tensors of two slices."""
    trainer = make_trainer(data)
    batch, kept = trainer.batches.load_batch(0), dict[int, Tensor]()
    before = trainer.clone_state()
    forecast = activation_bytes(trainer.build, CPU, LENGTH)
    assert all(torch.equal(t, before[name]) for name, t in trainer.state_dict().items())

    def real(rows: int) -> int:
        kept.clear()
        pack = lambda t: kept.setdefault(t.untyped_storage()._cdata, t)  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            trainer.loss_module(trainer.to_device(batch.inputs[:rows]), trainer.to_device(batch.targets[:rows]))
        return sum(t.untyped_storage().nbytes() for t in kept.values())

    assert forecast == pytest.approx((real(4) - real(2)) / (2 * LENGTH), rel=0.02)


# ---- how many rows fit ---------------------------------------------------------------------------------------------


def test_ninety_percent_of_what_is_free_is_filled() -> None:
    assert max_micro_tokens(1000, 100, 8.0) == 100
    assert max_micro_tokens(100, 100, 8.0) == 0


@pytest.mark.parametrize(("tokens", "rows"), [(0, 1), (99, 1), (200, 2), (399, 3), (599, 4), (600, 6), (1e9, 12)])
def test_rows_are_the_largest_divisor_that_fits(tokens: float, rows: int) -> None:
    assert largest_micro_batch(12, 100, tokens) == rows


def fitted(trainer: Trainer, lines: list[str], compute_loss: LossFunction | None = None) -> ExecutionPlan:
    """The plan that setup would choose for this loss function (default: the loss module itself)."""
    tokens = estimate_micro_batch(trainer, lines.append)
    plan = trainer.plan._replace(max_micro_tokens=tokens, compute_loss=compute_loss or trainer.loss_module)
    return find_micro_batch(trainer, plan, lines.append)


def test_a_cpu_has_no_limit(data: Path) -> None:
    trainer, lines = make_trainer(data), list[str]()
    assert available_bytes(torch.device("cpu")) is None
    plan = fitted(trainer, lines)
    assert plan == trainer.plan and not lines and plan.micro_batch_rows(4, LENGTH) == 4


def test_settings_are_an_upper_limit(data: Path) -> None:
    plan = make_trainer(data, toy_recipe().set("train.micro_rows", 2)).plan
    assert plan.micro_batch_rows(4, LENGTH) == 2
    plan = plan._replace(max_micro_tokens=3 * LENGTH)
    assert plan.micro_batch_rows(4, LENGTH) == 2 and plan.micro_batch_rows(4, 2 * LENGTH) == 1


# ---- in a trainer --------------------------------------------------------------------------------------------------


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Computes everything in float64, including casts to float32 (logits, rotary angles)."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def adam_trainer(data: Path) -> Trainer:
    rules = (part(Rule, where="*", use=part(Adam, lr=0.01)),)
    return make_trainer(data, toy_recipe(steps=8).set("train.optim", rules), noisy=False)


def forecast_of(trainer: Trainer, rows: float) -> int:
    """The number of free bytes for which the forecast allows this number of rows."""
    fixed = 2 * sum(p.numel() * p.element_size() for p in trainer.params.values())
    return round((rows * LENGTH * activation_bytes(trainer.build, CPU, LENGTH) + fixed) / 0.9) + 1


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("rows", "passes"), [(9, [4]), (3.9, [2, 2]), (1, [1, 1, 1, 1]), (0.1, [1, 1, 1, 1])])
def test_fewer_rows_at_a_time_train_the_same(
    data: Path, monkeypatch: pytest.MonkeyPatch, rows: float, passes: list[int]
) -> None:
    whole, pieces, lines = adam_trainer(data), adam_trainer(data), list[str]()
    free = forecast_of(pieces, rows)
    monkeypatch.setattr(micro_batch, "available_bytes", lambda device: free)
    pieces.plan = fitted(pieces, lines)
    calls: list[int] = []
    pieces.loss_module.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    for step in range(3):
        now = TrainingProgress(step, 8, 0.0, 0.0)
        torch.testing.assert_close(pieces.step(step, now), whole.step(step, now), rtol=1e-12, atol=0)
    assert calls == passes * 3
    assert (
        f"micro-batches of {passes[0]} of 4 rows of 32 tokens" in lines[0] and f"{free / 1e9:.1f} GB free" in lines[0]
    )
    for path, p in pieces.params.items():
        torch.testing.assert_close(p, whole.params[path], rtol=0, atol=1e-12, msg=path)


class Cramped:
    """Imitates a graph on a device whose memory holds `holds()` rows at a time."""

    def __init__(self, trainer: Trainer, holds: Callable[[], int]) -> None:
        self.task, self.holds = trainer.loss_module, holds

    def __call__(self, ids: Tensor, targets: Tensor) -> Tensor:
        if len(ids) > self.holds():
            raise torch.OutOfMemoryError("tried to allocate too much")
        return self.task(ids, targets)


@pytest.fixture
def ample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretends that 1 TB is free, so that the forecast allows far too many tokens."""
    monkeypatch.setattr(micro_batch, "available_bytes", lambda device: 10**12)


@pytest.mark.usefixtures("ample")
def test_where_memory_runs_out_there_are_fewer_rows(data: Path) -> None:
    trainer, lines = make_trainer(data), list[str]()
    before = trainer.clone_state()
    plan = fitted(trainer, lines, Cramped(trainer, lambda: 1))
    assert plan.micro_batch_rows(4, LENGTH) == 1
    assert [line.partition("; ")[2] for line in lines[1:]] == ["trying 2 of 4", "trying 1 of 4"]
    assert all(torch.equal(t, before[name]) for name, t in trainer.state_dict().items())
    assert all(p.grad is None for p in trainer.params.values())


@pytest.mark.usefixtures("ample")
def test_where_one_row_is_too_much_a_graph_recomputes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The activation memory budget is lowered until the row fits, for this graph only."""
    trainer, lines, tried = make_trainer(data), list[str](), list[float]()

    def holds() -> int:
        tried.append(functorch.activation_memory_budget)
        return int(functorch.activation_memory_budget <= 0.25)

    cramped = Cramped(trainer, holds)
    monkeypatch.setattr(micro_batch, "compile_graph", lambda task, device: cramped)
    trainer.plan = fitted(trainer, lines, cramped)
    assert tried == [1.0, 1.0, 1.0, 0.5, 0.25, 0.25] and functorch.activation_memory_budget == 1.0
    assert "at most 25% of them are saved" in lines[-1] and len(lines) == 5
    assert torch.isfinite(trainer.step(0, TrainingProgress(0, 8, 0.0, 0.0)))


@pytest.mark.usefixtures("ample")
@pytest.mark.parametrize("graph", [True, False])
def test_where_nothing_helps_it_is_one_error(data: Path, monkeypatch: pytest.MonkeyPatch, graph: bool) -> None:
    trainer, lines = make_trainer(data), list[str]()
    cramped = Cramped(trainer, lambda: 0)
    monkeypatch.setattr(micro_batch, "compile_graph", lambda task, device: cramped)
    if not graph:
        monkeypatch.setattr(trainer.loss_module, "forward", cramped)
        monkeypatch.setattr(micro_batch, "activation_bytes", lambda *_: 1.0)
    with pytest.raises(BitgolfError, match=r"train\.length: one row of 32 tokens does not fit the memory of cpu"):
        fitted(trainer, lines, cramped if graph else None)
    assert len(lines) == 3 + graph * len(ACTIVATION_BUDGETS)


@pytest.mark.usefixtures("ample")
def test_the_process_with_least_room_decides(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The minimum over processes counts, for the forecast and for the test of a pass."""
    trainer, theirs = make_trainer(data), iter([2 * LENGTH, 0, 1])
    monkeypatch.setattr(micro_batch, "all_reduce_min", lambda value, distributed: min(value, next(theirs)))
    assert fitted(trainer, []).micro_batch_rows(4, LENGTH) == 1


@pytest.mark.usefixtures("ample")
def test_other_failures_are_no_lack_of_memory(data: Path) -> None:
    trainer = make_trainer(data)

    def broken(ids: Tensor, targets: Tensor) -> Tensor:
        raise RuntimeError("the machine is on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        fitted(trainer, [], broken)
