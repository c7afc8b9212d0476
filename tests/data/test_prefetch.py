"""Tests of prefetching: batches are identical to those without it, for any request, and the thread ends."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from contextlib import closing

import pytest
import torch

from bitgolf.data.batches import BatchLoader, ShuffledWindows, TokenBatch
from bitgolf.data.prefetch import PREFETCH_STEPS, Prefetcher
from bitgolf.data.shards import TokenStream
from bitgolf.errors import BitgolfError

Counting = Callable[..., TokenStream]
ASKED = [
    *((step, 6, 5) for step in range(4)),  # foreseen but the first
    (9, 6, 5),  # a resumed run
    (10, 6, 5),
    (10, 2, 5),  # a ramp's shape
    (11, 2, 3),
    (0, 6, 5),  # back, as after warming up
]


def batches(stream: TokenStream) -> BatchLoader:
    return BatchLoader(stream, rows=6, length=5, order=ShuffledWindows(), seed=1)


def threads() -> list[threading.Thread]:
    """Threads of prefetchers that are still used: trainers of other tests may not be collected yet."""
    gc.collect()
    return [t for t in threading.enumerate() if t.name.startswith("batches")]


@pytest.mark.parametrize(("rank", "size"), [(0, 1), (1, 2)])
def test_batches_are_the_same(counting: Counting, rank: int, size: int) -> None:
    stream = counting(61, 40)
    with closing(Prefetcher(batches(stream), rank, size, pin=False)) as ahead:
        for step, rows, length in ASKED:
            got = ahead.load_batch(step, rows=rows, length=length)
            want = batches(stream).load_batch(step, rank, size, rows=rows, length=length)
            assert torch.equal(got.inputs, torch.from_numpy(want.inputs)), (step, rows, length)
            assert torch.equal(got.targets, torch.from_numpy(want.targets))
    wait_for(lambda: not threads())


class Recorded(BatchLoader):
    """Records the steps that it loaded, and the threads in which it did."""

    def load_batch(
        self, step: int, rank: int = 0, world_size: int = 1, *, rows: int = 0, length: int = 0
    ) -> TokenBatch:
        self.made: list[tuple[int, str]]
        self.__dict__.setdefault("made", []).append((step, threading.current_thread().name))
        if step == 7:
            raise BitgolfError("the disk is gone")
        return super().load_batch(step, rank, world_size, rows=rows, length=length)


def recorded(stream: TokenStream) -> Recorded:
    return Recorded(stream, rows=6, length=5, order=ShuffledWindows(), seed=1)


def test_two_are_made_ahead_by_one_thread(counting: Counting) -> None:
    source = recorded(counting(61, 40))
    with closing(Prefetcher(source, 0, 1, pin=False)) as ahead:
        ahead.load_batch(0, rows=6, length=5)
        wait_for(lambda: len(source.made) == 1 + PREFETCH_STEPS)
        ahead.load_batch(1, rows=6, length=5)
        wait_for(lambda: len(source.made) == 2 + PREFETCH_STEPS)
    assert [step for step, _ in source.made] == [0, 1, 2, 3]
    assert len({name for _, name in source.made}) == 1 and source.made[0][1] != threading.current_thread().name


def wait_for(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not done() and time.monotonic() < end:
        time.sleep(0.001)
    assert done()


def test_an_error_comes_where_the_batch_is_asked_for(counting: Counting) -> None:
    with closing(Prefetcher(recorded(counting(61, 40)), 0, 1, pin=False)) as ahead:
        ahead.load_batch(5, rows=6, length=5)
        ahead.load_batch(6, rows=6, length=5)  # step 7 has failed by now, or will
        with pytest.raises(BitgolfError, match="the disk is gone"):
            ahead.load_batch(7, rows=6, length=5)
        assert ahead.load_batch(8, rows=6, length=5).inputs.shape == (6, 5)


def test_the_thread_ends_with_what_owns_it(counting: Counting) -> None:
    ahead = Prefetcher(batches(counting(61, 40)), 0, 1, pin=False)
    ahead.load_batch(0, rows=6, length=5)
    assert threads()
    del ahead
    gc.collect()
    wait_for(lambda: not threads())


def test_the_thread_pins_for_the_gpu_of_its_process(counting: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new thread starts with GPU 0, on which every process of the machine would otherwise open a context."""
    taken = list[int]()
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    with closing(Prefetcher(batches(counting(61, 40)), 0, 1, pin=True)) as ahead:
        ahead.load_batch(0, rows=0, length=0)
    assert taken == [3]
