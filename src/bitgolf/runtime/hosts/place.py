"""The place of this process in a group that torchrun or SLURM has started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from bitgolf.errors import UsageError
from bitgolf.runtime.hosts.slurm import is_task, task_variables

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a process must know; torchrun sets them."""
OTHERS = ("GROUP_RANK", "LOCAL_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE")
HINT = "start the processes with torchrun or srun, or unset the variable"


class Place(NamedTuple):
    """Rank of this process, number of processes, rank on this host, and number of the host.

    variables: the environment variables of torchrun that say so; address: host name of the first process.
    """

    rank: int
    size: int
    local_rank: int
    host: int
    address: str
    variables: dict[str, str]


def place_in(environment: Mapping[str, str]) -> Place | None:
    """The place that environment variables state: those of torchrun, otherwise those of `srun`; None for one process.

    Raises `UsageError` if some of the variables are missing or contradict each other.
    """
    given = {name: environment[name] for name in (*VARIABLES, *OTHERS) if name in environment}
    if "RANK" not in given and is_task(environment):
        given = task_variables(environment)
    if given.get("WORLD_SIZE", "1") == "1" and given.get("RANK", "0") == "0":
        return None
    for name in VARIABLES:
        if not given.get(name):
            other = "RANK" if "RANK" in given else "WORLD_SIZE"
            raise UsageError(f"the environment variable {other} is set, but {name} is not", hint=HINT)
    rank, size, local, port = (_number(given, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"))
    if not (local <= rank < size and port < 1 << 16):
        stated = ", ".join(f"{name}={given[name]}" for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"))
        raise UsageError(f"these environment variables contradict each other: {stated}", hint=HINT)
    host = _number(given, "GROUP_RANK") if given.get("GROUP_RANK") else rank - local
    return Place(rank, size, local, host, given["MASTER_ADDR"], given)


def take_place() -> Place | None:
    """`place_in` the environment of this process, whose variables of torchrun are then removed.

    This process does not join a process group of torch; its workers do, with variables of their own.
    """
    place = place_in(os.environ)
    if place:
        for name in [name for name in os.environ if name in (*VARIABLES, *OTHERS) or name.startswith("TORCHELASTIC_")]:
            del os.environ[name]
    return place


def _number(given: Mapping[str, str], name: str) -> int:
    if not given[name].isdecimal():
        raise UsageError(f"the environment variable {name} must be a number, got {given[name]!r}", hint=HINT)
    return int(given[name])
