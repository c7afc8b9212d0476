"""Parity checks: a fused module must equal the reference in value and gradient; a failure is reported as a reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitgolf.errors import BitgolfError, Unsupported
from bitgolf.training.kernels.fused import FusedMLP
from bitgolf.training.kernels.parity import RecordedCall, record_calls
from helpers.kernel_selection import (
    CPU,
    TRAINING,
    FakeFused,
    equal_times,
    make_task,
    silent_mlp,
)


def test_ability_is_agreement_in_value_and_gradient_though_the_branch_starts_at_zero(call: RecordedCall) -> None:
    plain = silent_mlp()
    assert not plain(*call.tensors).any()
    weights = [p.clone() for p in plain.parameters()]

    def why(make: Any) -> str:
        return TRAINING.parity_check(make, plain, call)

    assert why(FakeFused) == ""
    assert "exceeds the tolerance" in why(lambda plain: FakeFused(plain, 1.01))
    assert "exceeds the tolerance" in why(lambda plain: FakeFused(plain, cut=True))
    assert "exceeds the tolerance" in why(lambda plain: FakeFused(plain, float("nan")))
    assert all(torch.equal(a, b) for a, b in zip(weights, plain.parameters(), strict=True))


def test_whatever_a_kernel_raises_is_a_reason(call: RecordedCall) -> None:
    def broken(plain: nn.Module) -> nn.Module:
        raise NotImplementedError("no such instruction\nand a long story")

    plain = silent_mlp()
    assert TRAINING.parity_check(broken, plain, call) == "NotImplementedError: no such instruction"


def test_a_matrix_with_additions_stays_plain(rows: tuple[Tensor, Tensor]) -> None:
    task = make_task()
    plain = task.model.blocks[0].mlp
    plain.up.adapters.append(nn.Linear(32, 48))  # type: ignore[union-attr]
    with pytest.raises(Unsupported, match="output adapters"):
        FusedMLP(plain)  # type: ignore[arg-type]


def test_calls_are_recorded_as_the_run_makes_them(rows: tuple[Tensor, Tensor]) -> None:
    task = make_task()
    modules = [task.objective, task.model.blocks[1].mlp, nn.Identity()]
    calls = record_calls(task, modules, CPU, rows)
    assert [calls[m].signature[0][0] for m in modules[:2]] == [(2, 16, 32), (2, 16, 32)]
    assert torch.equal(calls[task.objective].tensors[1], rows[1])
    assert modules[2] not in calls


def test_a_lack_of_memory_is_an_error_that_names_the_part_and_its_shape(call: RecordedCall) -> None:
    """Also if a compiler has wrapped the exception. The run does not fall back to the reference module."""

    def greedy(plain: nn.Module) -> nn.Module:
        try:
            raise torch.OutOfMemoryError("tried to allocate 36 GiB")
        except torch.OutOfMemoryError as error:
            raise RuntimeError("the backend failed") from error

    for attempt in (
        lambda: TRAINING.parity_check(greedy, silent_mlp(), call),
        lambda: TRAINING.benchmark(greedy, silent_mlp(), call, equal_times),
    ):
        with pytest.raises(BitgolfError, match=r"while trying MLP on tensors of shape \(1, 5, 32\)") as caught:
            attempt()
        assert caught.value.where == "train.micro_rows"
