"""Processes of a group, each with the environment that torchrun or srun would give it, on hosts that are folders."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from helpers.forked import Finished, ForkedProcess
from helpers.forked_programs import run_python

ALONE = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


class Host(NamedTuple):
    """A host: the folder that its processes start in, and the words of its command after `bitgolf`."""

    folder: Path
    words: Sequence[str]


def free_port() -> int:
    """A port of the loopback device that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_in(folder: Path, words: Sequence[str], output: Path | None = None) -> None:
    """Run a program of Python in a folder. For `ForkedProcess`."""
    os.chdir(folder)
    run_python(words, output)


def start_ranks(hosts: Sequence[Host], *, processes: int = 1) -> list[ForkedProcess]:
    """`torchrun --nnodes N --nproc_per_node PROCESSES -m bitgolf WORDS` on each host, without torchrun itself."""
    size, port = len(hosts) * processes, free_port()
    variables = [
        {
            "RANK": str(number * processes + local),
            "WORLD_SIZE": str(size),
            "LOCAL_RANK": str(local),
            "LOCAL_WORLD_SIZE": str(processes),
            "GROUP_RANK": str(number),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        for number in range(len(hosts))
        for local in range(processes)
    ]
    return [start(hosts[int(own["GROUP_RANK"])], own) for own in variables]


def start_tasks(hosts: Sequence[Host], job: int) -> list[ForkedProcess]:
    """`srun -N n python -m bitgolf WORDS`: one task on each host, all of which are this one."""
    common = {
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": str(len(hosts)),
        "SLURM_JOB_NODELIST": "localhost,other[1-3]",
    }
    return [
        start(host, {**common, "SLURM_PROCID": str(i), "SLURM_NODEID": str(i), "SLURM_LOCALID": "0"})
        for i, host in enumerate(hosts)
    ]


def start_agents(hosts: Sequence[Host], *options: str) -> list[ForkedProcess]:
    """torchrun on each host with one process, as a user starts it."""
    agent = ["-m", "torch.distributed.run", f"--nnodes={len(hosts)}", "--nproc-per-node=1", *options]
    return [
        ForkedProcess(
            run_in,
            host.folder,
            [*(word.replace("NUMBER", str(i)) for word in agent), "-m", "bitgolf", *host.words],
            environment=ALONE,
        )
        for i, host in enumerate(hosts)
    ]


def start(host: Host, variables: Mapping[str, str]) -> ForkedProcess:
    host.folder.mkdir(parents=True, exist_ok=True)
    words = ["-m", "bitgolf", *host.words]
    return ForkedProcess(run_in, host.folder, words, environment={**ALONE, **variables})


def finish_all(processes: Sequence[ForkedProcess], seconds: float = 120) -> list[Finished]:
    """Wait for all processes, and return how they ended."""
    return [process.finish(seconds) for process in processes]
