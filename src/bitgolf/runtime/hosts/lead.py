"""The first process of a group: it waits for the others, executes the command, and tells them how it ended."""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable

from bitgolf.errors import BitgolfError
from bitgolf.report.display import current_display
from bitgolf.runtime.hosts.channel import JOIN_SECONDS, Channel, Hello, accept_members, listener_for, publish
from bitgolf.runtime.hosts.follow import introduction
from bitgolf.runtime.hosts.group import Group, leading
from bitgolf.runtime.hosts.members import GroupMember
from bitgolf.runtime.hosts.place import Place

NOTE_SECONDS = 10.0
"""Wait after which a message says what is waited for."""


def lead(place: Place, command: Callable[[], int], report: Callable[[BaseException], int]) -> int:
    """Call `command`, whose jobs run on all processes of the group, and return its exit status.

    report: shows the error that ended the command, and returns the exit status.
    """
    group, status = Group(place, joined_members(place)), 1
    try:
        with leading(group):
            check_members(group)
            current_display().message(f"{group.size} processes on {group.host_count} hosts have joined")
            status = command()
    except SystemExit:
        raise
    except BaseException as error:
        status = report(group.failure or error)
    finally:
        group.finish(status)
    return status


def joined_members(place: Place) -> dict[int, GroupMember]:
    """Wait for the other processes, and return those that have joined, by rank."""
    secret, arrived = secrets.token_hex(16), queue.SimpleQueue[GroupMember]()
    members, started, noted = dict[int, GroupMember](), time.monotonic(), False
    with listener_for(place) as listener:
        shared = publish(place, listener, secret)

        def joined(channel: Channel, hello: Hello) -> None:
            arrived.put(GroupMember(channel, hello, place.size))

        threading.Thread(target=accept_members, args=(listener, secret, joined), daemon=True).start()
        while len(members) < place.size - 1:
            waited = time.monotonic() - started
            try:
                member = arrived.get(timeout=max(0.0, (JOIN_SECONDS if noted else NOTE_SECONDS) - waited))
                members[member.hello.rank] = member
            except queue.Empty:
                if noted:
                    break
                noted = True
                current_display().message(f"waiting for {place.size - 1 - len(members)} of {place.size} processes")
        del shared  # until here, the others find the listener
    return members


def check_members(group: Group) -> None:
    """Raise `BitgolfError` if processes have not joined, or if their host has other versions of the software."""
    size, members = group.size, group.members
    if missing := [rank for rank in range(1, size) if rank not in members]:
        ranks = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        raise BitgolfError(
            f"{len(missing)} of {size} processes have not joined within {JOIN_SECONDS:.0f} s: {ranks} (counted from 0)",
            hint="start all of them with one torchrun command on each host, or with one srun",
        )
    own = introduction(group.place)
    for member in members.values():
        if member.hello.versions != own.versions:
            message = f"{member.place} has {member.hello.versions}, the first host {own.versions}"
            raise BitgolfError(message, hint="install the same versions on all hosts")
