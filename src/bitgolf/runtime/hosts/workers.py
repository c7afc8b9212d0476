"""The worker process that each process of a group starts for a job."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from bitgolf.runtime.hosts.place import Place
from bitgolf.runtime.worker_process import WorkerProcess


def start_worker(place: Place, folder: Path, port: int) -> WorkerProcess:
    """Start a worker for the job in a folder. port: where the workers of all processes find each other."""
    variables = worker_variables(place, port, os.environ)
    return WorkerProcess([sys.executable, "-m", "bitgolf.runtime.worker", str(folder)], variables)


def worker_variables(place: Place, port: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables with which torchrun would start the worker, whose store is already served by the first process."""
    return {
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.size),
        "LOCAL_RANK": str(device_number(place.local_rank, environment)),
        "GROUP_RANK": str(place.host),
        "MASTER_ADDR": place.address,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


def device_number(local_rank: int, environment: Mapping[str, str]) -> int:
    """The number of a process's GPU among those that it sees: its rank on the host.

    A task of SLURM that sees one GPU (`--gpus-per-task=1`) uses that, whatever its rank.
    """
    alone = "SLURM_PROCID" in environment and environment.get("CUDA_VISIBLE_DEVICES", ",").count(",") == 0
    return 0 if alone else local_rank
