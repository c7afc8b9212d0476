"""The fastest fused module that agrees is chosen: parity on a slice, speed at the run's own size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitgolf.config.edits import append
from bitgolf.config.spec import Place, part
from bitgolf.model.attention.cores.sdpa import SameDocument, Sdpa, Window
from bitgolf.model.attention.cores.sdpa_backend import Fused
from bitgolf.model.attention.cores.segment_capacity import Room
from bitgolf.model.attention.cores.varlen import Varlen
from bitgolf.model.forward_context import Bus
from bitgolf.model.mlp import MLP
from bitgolf.train.kernels import select
from bitgolf.train.kernels.parity import Call, Timer, Trial
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
    """A timer that says of each kind of module what it is told to."""
    running: list[type[nn.Module]] = []
    prepared = Trial.prepared

    def remember(self: Trial, module: nn.Module) -> Callable[..., Tensor]:
        running.append(type(module))
        return prepared(self, module)

    monkeypatch.setattr(Trial, "prepared", remember)
    return lambda once: times[running[-1]]


class Same(FakeFused): ...


class Wrong(FakeFused):
    def __init__(self, plain: Any) -> None:
        super().__init__(plain, 1.01)


@pytest.mark.parametrize(
    ("slower", "same", "plain", "expected"), [(4.0, 2.0, 3.0, "same"), (2.0, 4.0, 3.0, "slower"), (4.0, 5.0, 3.0, "")]
)
def test_the_fastest_that_agrees_wins_whatever_a_wrong_one_takes(
    slower: float, same: float, plain: float, expected: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = fixed_times({FakeFused: slower, Same: same, MLP: plain, Wrong: 0.1}, monkeypatch)
    site = select.Site.of("an MLP", silent_mlp(), {"wrong": Wrong, "slower": FakeFused, "same": Same})
    verdict = select.verdict(site, call, torch.ones(1, 5, dtype=torch.int64), TRAINING, timer, plain=True)
    assert verdict.twin == expected
    assert verdict.why == (
        f"slower {slower:.3g} ms; same {same:.3g} ms; plain {plain:.3g} ms; wrong: its numbers are 1.0% from the plain ones"
    )
    insisted = select.verdict(site, call, torch.ones(1, 5, dtype=torch.int64), TRAINING, timer, plain=False)
    assert insisted.twin == ("slower" if slower < same else "same")


def test_what_fails_at_full_size_is_out_with_the_reason(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(FakeFused):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[1] > 5:
                raise ValueError("five at most")
            return super().forward(x)

    site = select.Site.of("an MLP", silent_mlp(), {"small": Small})
    verdict = select.verdict(site, call, torch.ones(1, 9, dtype=torch.int64), TRAINING, equal_times, plain=True)
    assert verdict == ("", "plain 1 ms; small: ValueError: five at most", (0, 0))


def test_parity_is_on_a_slice_and_speed_at_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is recorded or compared on more than `PARITY_TOKENS` of one row; what is timed has the run's own shape."""
    monkeypatch.setattr(select, "PARITY_TOKENS", 8)
    task = make_task(leaky_toy().edit(Sdpa, append(masks=part(Window, width=3))))
    ids = torch.randint(2, VOCAB, (3, 33))
    seen: dict[str, set[tuple[int, ...]]] = {"compared": set(), "timed": set()}
    difference, cost = Trial.difference, Trial.cost

    def compare(self: Trial, a: Any, b: Any, plain: nn.Module, call: Call) -> float:
        seen["compared"].add(tuple(call.tensors[0].shape[:2]))
        return difference(self, a, b, plain, call)

    def measure(self: Trial, make: Any, plain: nn.Module, call: Call, timer: Timer) -> float | str:
        seen["timed"].add(tuple(call.tensors[0].shape[:2]))
        return cost(self, make, plain, call, timer)

    monkeypatch.setattr(Trial, "difference", compare)
    monkeypatch.setattr(Trial, "cost", measure)
    judge_on_cpu(task, (ids[:, :-1], ids[:, 1:]))
    assert seen == {"compared": {(1, 8)}, "timed": {(3, 32)}}


def test_no_mask_beyond_the_longest_is_made_for_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Free(Fused):
        def __init__(self, plain: Sdpa) -> None:
            nn.Module.__init__(self)
            self.plain = plain

        def forward(self, q: Tensor, k: Tensor, v: Tensor, bus: Bus) -> Tensor:
            return self.plain(q, k, v, bus)

    place = Place(vocab=VOCAB, dim=8, heads=1, kv_heads=1)
    site = select.Site.of("attention", Sdpa(place, masks=(part(SameDocument),)), {"free": Free})
    ids = torch.full((1, 16), 2)
    call = Call(tuple(torch.randn(1, 16, 1, 8) for _ in range(3)), (Bus(ids),))
    for longest, timed in ((16, "free 1 ms; plain 1 ms"), (15, "free 1 ms")):
        monkeypatch.setattr(select, "LONGEST_MASK", longest)
        verdict = select.verdict(site, call, ids, TRAINING, equal_times, plain=True)
        assert (verdict.twin, verdict.why) == ("free", timed)


class Counting(Varlen):
    """A variable-length core that counts segments, and leaves attention to the plain one."""

    def __init__(self, plain: Sdpa) -> None:
        super().__init__(plain)
        self.plain = plain

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bus: Bus) -> Tensor:
        self.ends(bus)
        return self.plain(q, k, v, bus)


def test_a_chosen_core_has_room_for_the_first_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the batch that it is tried with needs less; the log line says how much."""
    monkeypatch.setattr(select, "attention_twins", lambda plain, compiled: {"counting": Counting})
    model = built(leaky_toy().edit(Sdpa, append(masks=part(SameDocument))))
    ids = torch.full((2, 300), 2)
    later = ids.clone()
    later[:, ::4] = 1  # 150 documents
    trial = Trial(CPU, compiled=False, backward=True)
    found = [site for site in select.sites(model, compiled=False) if "attention" in site.what]
    verdicts = select.judge(
        model, found, (ids,), trial, [ids.numpy(), later.numpy()], 1, plain=False, timer=equal_times
    )
    assert {verdict.room for verdict in verdicts} == {Room(192, 300)}  # 1.25 * 150 in steps of 64
    choice = select.Choice(model, found, verdicts, 1, print)
    assert {core.room for core in choice.slots.cores} == {Room(192, 300)}
    line = "counting (counting 1 ms; room for 192 segments of at most 300 tokens)"
    assert choice.lines == [f"attention with SameDocument(): {line}"]
