"""Among the fused modules that pass the parity check, the fastest is selected. Timing uses the shapes of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitgolf.config.edits import append
from bitgolf.config.spec import BuildContext, part
from bitgolf.model.attention.cores.sdpa import DocumentMask, SDPACore, SlidingWindowMask
from bitgolf.model.attention.cores.sdpa_backend import SDPABackendCore
from bitgolf.model.attention.cores.segment_capacity import SegmentCapacity
from bitgolf.model.attention.cores.varlen import VarlenCore
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.mlp import MLP
from bitgolf.training.kernels import select
from bitgolf.training.kernels.parity import KernelTrial, RecordedCall, Timer
from helpers.kernel_selection import (
    CPU,
    TRAINING,
    FakeFused,
    equal_times,
    judge_on_cpu,
    leaky_toy,
    make_task,
    silent_mlp,
)
from helpers.toy import VOCAB, built


def fixed_times(times: dict[type[nn.Module], float], monkeypatch: pytest.MonkeyPatch) -> Timer:
    """A timer that returns the given time for each type of module."""
    running: list[type[nn.Module]] = []
    prepared = KernelTrial.runnable

    def remember(self: KernelTrial, module: nn.Module) -> Callable[..., Tensor]:
        running.append(type(module))
        return prepared(self, module)

    monkeypatch.setattr(KernelTrial, "runnable", remember)
    return lambda once: times[running[-1]]


class Same(FakeFused): ...


class Wrong(FakeFused):
    def __init__(self, plain: Any) -> None:
        super().__init__(plain, 1.01)


@pytest.mark.parametrize(
    ("slower", "same", "plain", "expected"), [(4.0, 2.0, 3.0, "same"), (2.0, 4.0, 3.0, "slower"), (4.0, 5.0, 3.0, "")]
)
def test_the_fastest_that_agrees_wins_whatever_a_wrong_one_takes(
    slower: float, same: float, plain: float, expected: str, call: RecordedCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = fixed_times({FakeFused: slower, Same: same, MLP: plain, Wrong: 0.1}, monkeypatch)
    site = select.KernelCandidate.for_module(
        "an MLP", silent_mlp(), {"wrong": Wrong, "slower": FakeFused, "same": Same}
    )
    verdict = select.evaluate_candidate(site, call, torch.ones(1, 5, dtype=torch.int64), TRAINING, timer, plain=True)
    assert verdict.implementation == expected
    assert verdict.reason == (
        f"slower {slower:.3g} ms; same {same:.3g} ms; plain {plain:.3g} ms; wrong: relative error 1.0% exceeds the tolerance of 0.1%"
    )
    insisted = select.evaluate_candidate(site, call, torch.ones(1, 5, dtype=torch.int64), TRAINING, timer, plain=False)
    assert insisted.implementation == ("slower" if slower < same else "same")


def test_what_fails_at_full_size_is_out_with_the_reason(call: RecordedCall, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(FakeFused):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[1] > 5:
                raise ValueError("five at most")
            return super().forward(x)

    site = select.KernelCandidate.for_module("an MLP", silent_mlp(), {"small": Small})
    verdict = select.evaluate_candidate(
        site, call, torch.ones(1, 9, dtype=torch.int64), TRAINING, equal_times, plain=True
    )
    assert verdict == ("", "plain 1 ms; small: ValueError: five at most", (0, 0))


def test_parity_is_on_a_slice_and_speed_at_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parity is checked on at most `PARITY_TOKENS` tokens of one row; timing uses the shape of the run's batch."""
    monkeypatch.setattr(select, "PARITY_TOKENS", 8)
    task = make_task(leaky_toy().edit(SDPACore, append(masks=part(SlidingWindowMask, left=3))))
    ids = torch.randint(2, VOCAB, (3, 33))
    seen: dict[str, set[tuple[int, ...]]] = {"compared": set(), "timed": set()}
    difference, cost = KernelTrial.max_relative_error, KernelTrial.benchmark

    def compare(self: KernelTrial, a: Any, b: Any, plain: nn.Module, call: RecordedCall) -> float:
        seen["compared"].add(tuple(call.tensors[0].shape[:2]))
        return difference(self, a, b, plain, call)

    def measure(self: KernelTrial, make: Any, plain: nn.Module, call: RecordedCall, timer: Timer) -> float | str:
        seen["timed"].add(tuple(call.tensors[0].shape[:2]))
        return cost(self, make, plain, call, timer)

    monkeypatch.setattr(KernelTrial, "max_relative_error", compare)
    monkeypatch.setattr(KernelTrial, "benchmark", measure)
    judge_on_cpu(task, (ids[:, :-1], ids[:, 1:]))
    assert seen == {"compared": {(1, 8)}, "timed": {(3, 32)}}


def test_no_mask_beyond_the_longest_is_made_for_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Free(SDPABackendCore):
        def __init__(self, plain: SDPACore) -> None:
            nn.Module.__init__(self)
            self.plain = plain

        def forward(self, q: Tensor, k: Tensor, v: Tensor, context: ForwardContext) -> Tensor:
            return self.plain(q, k, v, context)

    place = BuildContext(vocab=VOCAB, dim=8, heads=1, kv_heads=1)
    site = select.KernelCandidate.for_module("attention", SDPACore(place, masks=(part(DocumentMask),)), {"free": Free})
    ids = torch.full((1, 16), 2)
    call = RecordedCall(tuple(torch.randn(1, 16, 1, 8) for _ in range(3)), (ForwardContext(ids),))
    for longest, timed in ((16, "free 1 ms; plain 1 ms"), (15, "free 1 ms")):
        monkeypatch.setattr(select, "MAX_DENSE_MASK_LENGTH", longest)
        verdict = select.evaluate_candidate(site, call, ids, TRAINING, equal_times, plain=True)
        assert (verdict.implementation, verdict.reason) == ("free", timed)


class Counting(VarlenCore):
    """A variable-length core that computes segment boundaries but uses the reference core for attention."""

    def __init__(self, plain: SDPACore) -> None:
        super().__init__(plain)
        self.plain = plain

    def forward(self, q: Tensor, k: Tensor, v: Tensor, context: ForwardContext) -> Tensor:
        self.cu_seqlens(context)
        return self.plain(q, k, v, context)


def test_a_chosen_core_has_room_for_the_first_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The capacity fits the first batches even if the trial batch needs less, and the log line states it."""
    monkeypatch.setattr(select, "fused_attention_cores", lambda plain, compiled: {"counting": Counting})
    model = built(leaky_toy().edit(SDPACore, append(masks=part(DocumentMask))))
    ids = torch.full((2, 300), 2)
    later = ids.clone()
    later[:, ::4] = 1  # 150 documents
    trial = KernelTrial(CPU, compiled=False, backward=True)
    found = [site for site in select.kernel_candidates(model, compiled=False) if "attention" in site.label]
    verdicts = select.evaluate_candidates(
        model, found, (ids,), trial, [ids.numpy(), later.numpy()], 1, allow_reference=False, timer=equal_times
    )
    assert {verdict.capacity for verdict in verdicts} == {SegmentCapacity(192, 300)}  # 1.25 * 150 in steps of 64
    choice = select.KernelSelection(model, found, verdicts, 1, print)
    assert {core.capacity for core in choice.segment_capacity.cores} == {SegmentCapacity(192, 300)}
    line = "counting (counting 1 ms; capacity of 192 segments of at most 300 tokens)"
    assert choice.summary == [f"attention with DocumentMask(): {line}"]
