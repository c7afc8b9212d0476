"""Time estimates and batch sizes of a score, and the messages when time or memory is exceeded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError
from bitgolf.model.lm import LM
from bitgolf.report.progress import Progress
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bitgolf.score.evaluate import ScoringContext, evaluate_method
from bitgolf.score.execution.batch_size import (
    CPU_TOKENS,
    MAX_TOKENS,
    MEMORY_FRACTION,
    BatchSize,
    batch_size_for_memory,
    choose_batch_size,
    inference_bytes_per_token,
)
from bitgolf.score.execution.forward import SelectKernels
from bitgolf.score.execution.time_estimate import TimeEstimate
from bitgolf.score.methods import ContiguousScoring
from bitgolf.score.player import Player, ScoringBatch, StaticPlayer
from bitgolf.score.result import MethodResult
from bitgolf.score.text import TokenizedText, append_final_bos
from helpers.toy import VOCAB, built, toy_model

CPU = Device(torch.device("cpu"), torch.float32, "a test's device")


def text(targets: int = 400) -> TokenizedText:
    ids = np.random.default_rng(0).integers(2, VOCAB, targets)
    ids[[0, 77]] = 1
    return TokenizedText(append_final_bos(ids, 1), 2 * targets)


def row(method: Spec[ContiguousScoring], **settings: Any) -> MethodResult:
    return evaluate_method(ScoringContext(built(toy_model()), VOCAB, text(), CPU, **settings), method)


class SetTime:
    """A clock that returns a time set by the test."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def at(clock: TimeEstimate, done: int, now: float) -> float:
    """Set the clock, a `SetTime`, to `now` and report that `done` targets are scored."""
    assert isinstance(clock.clock, SetTime)
    clock.clock.now = now
    return clock.update(done)


# ---- time ----------------------------------------------------------------------------------------------------------


@given(per_target=st.floats(1e-6, 1.0), compiling=st.floats(0.0, 100.0), block=st.integers(1, 100))
def test_at_a_steady_speed_the_forecast_is_right_from_the_second_block_on(
    per_target: float, compiling: float, block: int
) -> None:
    """For any duration of the first batch, which includes compilation."""
    own = 1000.0
    clock = TimeEstimate(own, 600.0, clock=SetTime(50.0))
    for done in range(block, 1000, block):
        expected = at(clock, done, now=50.0 + compiling + done * per_target)
        if done > block:
            assert expected == pytest.approx(compiling + own * per_target, rel=1e-6)


def test_a_forecast_is_kept_once_it_has_seen_a_twentieth() -> None:
    clock = TimeEstimate(1000.0, 600.0, clock=SetTime())
    at(clock, 30, now=10.0)
    at(clock, 60, now=13.0)
    assert clock.forecast is None
    at(clock, 90, now=16.0)
    assert clock.forecast == pytest.approx(16.0 + 910 * 0.1)
    at(clock, 1000, now=500.0)
    assert clock.forecast == pytest.approx(107.0)


def test_one_block_is_forecast_and_done() -> None:
    clock = TimeEstimate(1000.0, 600.0, clock=SetTime())
    assert at(clock, 1000, now=3.0) == 3.0 == clock.forecast


def test_over_the_limit_is_said_as_soon_as_it_is_expected() -> None:
    clock = TimeEstimate(1000.0, 600.0, clock=SetTime())
    assert clock.describe(at(clock, 100, now=59.0)) == "forecast 590 s of 600 s"
    assert clock.describe(at(clock, 200, now=121.0)) == "forecast 617 s, over the limit of 600 s"


def test_a_row_says_when_it_was_over_the_limit_and_only_then() -> None:
    shown = list[Progress]()
    over, within = (
        row(part(ContiguousScoring, window=16), time_limit=1e-9, show=shown.append),
        row(part(ContiguousScoring, window=16)),
    )
    (remark,) = over.warnings
    assert remark.startswith("scoring took ") and "over the limit of 1e-09 s (forecast " in remark
    assert within.warnings == [] and (over.time_limit_seconds, within.time_limit_seconds) == (1e-9, 600.0)
    assert within.forecast_seconds and 0 < within.forecast_seconds < 600 and within.compile_seconds == 0
    assert any("over the limit of 1e-09 s" in fact for fact in shown[-1].details)


def test_a_row_names_the_device_that_made_it() -> None:
    found = row(part(ContiguousScoring, window=16))
    assert (found.device, found.kernels) == ("a test's device", [])


# ---- batch size ----------------------------------------------------------------------------------------------------


def test_a_cpu_reads_as_much_as_it_always_did() -> None:
    model = built(toy_model())
    assert (
        choose_batch_size(model, ContiguousScoring(window=256), CPU, SINGLE_PROCESS).tokens
        == CPU_TOKENS
        == row(part(ContiguousScoring, window=16)).batch_tokens
    )
    assert choose_batch_size(model, ContiguousScoring(window=256), CPU, SINGLE_PROCESS, 70) == BatchSize(
        70, "as specified"
    )


@given(per_token=st.integers(1, 10**7), window=st.integers(1, 8192), free=st.integers(0, 2 * 10**11))
def test_a_batch_is_a_power_of_two_of_rows_that_fits(per_token: int, window: int, free: int) -> None:
    tokens = batch_size_for_memory(per_token, window, free).tokens
    rows = tokens // window
    assert tokens == rows * window and rows & (rows - 1) == 0
    assert rows == 1 or (tokens <= MAX_TOKENS and tokens * per_token <= MEMORY_FRACTION * free)
    assert 2 * tokens > MAX_TOKENS or 2 * tokens * per_token > MEMORY_FRACTION * free


def test_the_estimate_counts_logits_and_a_block() -> None:
    model = built(toy_model())
    assert inference_bytes_per_token(model) == 6 * VOCAB + 4 * (16 * 32 + 2 * 48 + 32 * 3 // 2)


class Small(ContiguousScoring):
    """A method whose player runs out of memory above `holds` tokens."""

    def __init__(self, *, window: int, holds: int = 64) -> None:
        super().__init__(window=window)
        self.holds = holds

    def make_player(
        self,
        model: LM,
        vocab: int,
        device: Device,
        distributed: DistributedContext,
        kernels: SelectKernels | None = None,
    ) -> Player:
        return SmallPlayer(model, vocab, device, self.holds)


class SmallPlayer(StaticPlayer):
    def __init__(self, model: LM, vocab: int, device: Device, holds: int) -> None:
        super().__init__(model, vocab, device)
        self.holds = holds

    def predict(self, block: ScoringBatch) -> Tensor:
        if block.tokens.numel() > self.holds:
            try:
                raise torch.OutOfMemoryError("tried to allocate much")
            except torch.OutOfMemoryError as error:
                raise RuntimeError("as compilers wrap it") from error
        return super().predict(block)


def test_where_memory_runs_out_half_as_many_tokens_are_read_and_it_is_said() -> None:
    found = row(part(Small, window=16), batch_tokens=256)
    wanted = row(part(ContiguousScoring, window=16), batch_tokens=64)
    assert found.bits == wanted.bits and found.batch_tokens == 64
    assert found.warnings == [
        "batch size halved: out of memory with 256 tokens, so batches of 128 tokens were used",
        "batch size halved: out of memory with 128 tokens, so batches of 64 tokens were used",
    ]


def test_where_nothing_is_left_to_halve_it_is_an_error() -> None:
    with pytest.raises(BitgolfError, match="out of memory with batches of 16 tokens"):
        row(part(Small, window=16, holds=1), batch_tokens=256)
    with pytest.raises(BitgolfError) as error:
        BatchSize(64, "").halved(16, DistributedContext(world_size=2))
    assert error.value.hint == "--batch 32"


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    class Broken(Small):
        def make_player(
            self,
            model: LM,
            vocab: int,
            device: Device,
            distributed: DistributedContext,
            kernels: SelectKernels | None = None,
        ) -> Player:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        row(part(Broken, window=16))
