"""The place of a task of SLURM, from the environment variables that `srun` sets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import product

from bitgolf.errors import UsageError

FIRST_PORT, PORTS = 15_000, 15_000
"""The ports for the first process: below those that Linux gives to outgoing connections (32,768 and above)."""
_PIECE = re.compile(r"([^\[\],\s]*)(?:\[([^\[\]]*)\])?")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
HINT = "start the processes with srun, or unset the variables of SLURM"


def is_task(environment: Mapping[str, str]) -> bool:
    """Whether this process is a task of `srun`. The batch script itself has a rank too, but no step."""
    return "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment


def task_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of torchrun (RANK, WORLD_SIZE, …) for a task of `srun`.

    The first host of the step, and a port computed from the numbers of job and step, are the address of the first
    process, unless MASTER_ADDR and MASTER_PORT are set. Raises `UsageError` if a variable is missing.
    """
    size = environment.get("SLURM_STEP_NUM_TASKS") or _required(environment, "SLURM_NTASKS")
    nodes = environment.get("SLURM_STEP_NODELIST") or _required(environment, "SLURM_JOB_NODELIST")
    job, step = (_number(environment, name) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": size,
        "LOCAL_RANK": _required(environment, "SLURM_LOCALID"),
        "GROUP_RANK": _required(environment, "SLURM_NODEID"),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or next(host_names(nodes)),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(FIRST_PORT + (job * 31 + step) % PORTS),
    }


def host_names(hosts: str) -> Iterator[str]:
    """The names in a host list of SLURM, in order, as `scontrol show hostnames` prints them.

    hosts: names separated by commas; brackets contain numbers and ranges, `node[01-03,7],gpu[1-2]-ib[0,4]`. Leading
    zeros are kept. Raises `UsageError` if the text is not a host list.
    """
    at = 0
    while True:
        parts, at = _parts_of_name(hosts, at)
        for chosen in product(*parts):
            yield "".join(chosen)
        if at == len(hosts):
            return
        at += 1  # the comma


def _parts_of_name(hosts: str, at: int) -> tuple[list[list[str]], int]:
    """(texts and numbers that a name consists of, the position after it: of a comma or the end)."""
    start, parts = at, list[list[str]]()
    while at < len(hosts) and hosts[at] != ",":
        piece = _PIECE.match(hosts, at)
        if not piece or not piece[0]:
            raise _malformed(hosts)
        parts.append([piece[1]])
        if piece[2] is not None:
            parts.append(list(_numbers(hosts, piece[2])))
        at = piece.end()
    if at == start:
        raise _malformed(hosts)
    return parts, at


def _numbers(hosts: str, ranges: str) -> Iterator[str]:
    for text in ranges.split(","):
        found = _RANGE.fullmatch(text)
        if not found:
            raise _malformed(hosts)
        first, last = found[1], found[2] or found[1]
        if not 0 <= int(last) - int(first) < 100_000:
            raise _malformed(hosts)
        yield from (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))


def _malformed(hosts: str) -> UsageError:
    return UsageError(f"not a list of hosts of SLURM: {hosts!r}", where="SLURM_JOB_NODELIST", hint=HINT)


def _required(environment: Mapping[str, str], name: str) -> str:
    if not environment.get(name):
        raise UsageError(f"SLURM_PROCID is set, but {name} is not", hint=HINT)
    return environment[name]


def _number(environment: Mapping[str, str], name: str) -> int:
    if not (text := _required(environment, name)).isdecimal():
        raise UsageError(f"the environment variable {name} must be a number, got {text!r}", hint=HINT)
    return int(text)
