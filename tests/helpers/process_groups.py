"""Process groups of two and of four processes, for tests."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.distributed as dist

from bitgolf.runtime.distributed import DistributedContext
from helpers.forked import ForkedProcess, run_script

SIZES = (2, 4)


def _member(work: Callable[[DistributedContext], object], rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/{size}.store", rank=rank, world_size=size)
    work(DistributedContext(rank, size, rank, backend="gloo"))
    dist.destroy_process_group()


def run_in_processes(work: Callable[[DistributedContext], object], folder: Path) -> int:
    """Run a function in forked process groups of two and of four ranks; returns 0 if all processes succeed."""
    codes: list[int | None] = []
    for size in SIZES:
        processes = [get_context("fork").Process(target=_member, args=(work, r, size, folder)) for r in range(size)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        codes += [process.exitcode for process in processes]
    return int(any(codes))


def run_as_script(file: str, *arguments: Path) -> None:
    """Run a test's file as a script, since a process with threads must not fork. Fails with its output."""
    words, hidden = [str(argument) for argument in arguments], {"CUDA_VISIBLE_DEVICES": ""}
    done = ForkedProcess(run_script, file, words, environment=hidden).finish()
    assert done.status == 0, done.output
