"""Refusal of fused modules: `Unsupported` is reported as a reason; any other exception is logged with its traceback."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import part
from bitgolf.errors import Unsupported
from bitgolf.model.mlp import MLP, SquaredLeakyReLU
from bitgolf.runtime.device import Device
from bitgolf.training.kernels.parity import KernelTrial, RecordedCall

TRIAL = KernelTrial(Device(torch.device("cpu"), torch.float32, "a test"), compiled=False, backward=True)
CALL = RecordedCall((torch.randn(1, 3, 8),), ())


class Misspelt(nn.Module):
    """A fused module with a bug."""

    def forward(self, x: Tensor) -> Tensor:
        return self.up_projection(x)  # pyright: ignore[reportCallIssue]


def unsupported(plain: nn.Module) -> nn.Module:
    raise Unsupported("its width is odd")


def reference() -> MLP:
    return MLP(BuildContext(vocab=4, dim=8), hidden=16, act=part(SquaredLeakyReLU))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "bitgolf.training.kernels.parity")
    return caplog


def test_what_does_not_apply_is_answered_with_its_reason_alone(log: pytest.LogCaptureFixture) -> None:
    assert TRIAL.parity_check(unsupported, reference(), CALL) == "its width is odd"
    assert TRIAL.benchmark(unsupported, reference(), CALL, lambda call: 1.0) == "its width is odd"
    assert not log.records


def test_a_bug_is_answered_and_its_traceback_logged(log: pytest.LogCaptureFixture) -> None:
    def call_once(call: object) -> float:
        assert callable(call)
        call()
        return 1.0

    for answer in (
        TRIAL.parity_check(lambda _: Misspelt(), reference(), CALL),
        TRIAL.benchmark(lambda _: Misspelt(), reference(), CALL, call_once),
    ):
        assert answer == "AttributeError: 'Misspelt' object has no attribute 'up_projection'"
    assert [record.levelno for record in log.records] == [logging.DEBUG] * 2
    assert all(record.exc_info and "MLP" in record.getMessage() for record in log.records)
    assert log.text.count("return self.up_projection(x)") == 2
