"""The command line in a group of processes that torchrun or srun has started: the first one executes the command.

The others need only their own --shards, and follow; so an error in the command line is shown once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bitgolf.errors import UsageError
from bitgolf.runtime.hosts.place import take_place


def run_on_hosts(words: Sequence[str], command: Callable[[], int], report: Callable[[BaseException], int]) -> int:
    """Call `command` if this process is alone or the first of a group; otherwise follow. Returns the exit status.

    words: those of the command line. report: shows an error of the command and returns the exit status.
    """
    place = take_place()
    if place is None:
        return command()
    if place.rank == 0:
        from bitgolf.runtime.hosts.lead import lead

        return lead(place, command, report)
    from bitgolf.runtime.hosts.follow import follow

    shards = option_value(words, "--shards")
    return follow(place, Path(shards) if shards else None)


def option_value(words: Sequence[str], option: str) -> str:
    """The value of an option in a command line, "" without it. The last one counts."""
    found = ""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == option:
            found = following
        elif word.startswith(f"{option}="):
            found = word.removeprefix(f"{option}=")
    return found


def group_size(processes: int, option: str) -> int:
    """The number of processes of a command: that of the group, if there is one, otherwise `processes`.

    Raises `UsageError` if the option names another number than the group has.
    """
    from bitgolf.runtime.hosts.group import current_group

    group = current_group()
    if group is None:
        return processes
    if processes not in (1, group.size):
        cause = f"{processes} processes are asked for, but torchrun or srun has started {group.size}"
        raise UsageError(cause, where=option, hint=f"leave {option} out")
    return group.size
