"""Tests of what the first process checks of the others."""

from __future__ import annotations

import threading
from multiprocessing.connection import Client, Listener

import pytest

from bitgolf.errors import BitgolfError, UsageError
from bitgolf.runtime.hosts.channel import Channel, Finished, Hello
from bitgolf.runtime.hosts.follow import introduction
from bitgolf.runtime.hosts.group import Group, current_group, last_device, leading
from bitgolf.runtime.hosts.lead import check_members
from bitgolf.runtime.hosts.members import GroupMember
from bitgolf.runtime.hosts.place import Place

PLACE = Place(0, 3, 0, 0, "127.0.0.1", {})


def member(rank: int, *, host: int = 0, gpus: int = 0, versions: str = "") -> tuple[GroupMember, Channel]:
    """A process of the group, and its own end of the connection."""
    with Listener(("127.0.0.1", 0), "AF_INET") as listener:
        own = Channel(Client(listener.address))
        hello = Hello(rank, host, "b", True, versions or introduction(PLACE).versions, gpus)
        return GroupMember(Channel(listener.accept()), hello, PLACE.size), own


def finish(group: Group, *ends: Channel) -> list[object]:
    """End a group; returns what the other processes have received. One that left earlier would end this one."""
    received = list[object]()

    def leave(end: Channel) -> None:
        received.append(end.receive())
        end.close()

    threads = [threading.Thread(target=leave, args=(end,)) for end in ends]
    for thread in threads:
        thread.start()
    group.finish(7)
    for thread in threads:
        thread.join(10)
    return received


def test_a_group_knows_its_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    (one, end), (two, other) = member(1), member(2, host=1)
    group = Group(PLACE, {2: two, 1: one})
    assert list(group.members) == [1, 2] and (group.size, group.local_size, group.host_count) == (3, 2, 2)
    assert current_group() is None and last_device(4) == 3
    with leading(group):
        assert current_group() is group and last_device(3) == 1
        monkeypatch.setenv("SLURM_PROCID", "0")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
        assert last_device(3) == 0, "each task sees its own GPU"
    check_members(group)
    finish(group, end, other)


@pytest.mark.parametrize(("kind", "words"), [("cuda", "sees no GPU"), ("cpu", "sees GPUs, and the first process none")])
def test_hosts_with_and_without_gpus_are_refused(kind: str, words: str) -> None:
    (one, end), (two, other) = member(1, gpus=8 * (kind == "cuda")), member(2, host=1, gpus=8 * (kind == "cpu"))
    group = Group(PLACE, {1: one, 2: two})
    with pytest.raises(UsageError, match=rf"process 2 of 3 on host 1 \(b\) {words}"):
        group.check_devices(kind)
    finish(group, end, other)


def test_missing_processes_and_other_versions_are_errors() -> None:
    one, end = member(2)
    group = Group(PLACE, {2: one})
    with pytest.raises(BitgolfError, match="1 of 3 processes have not joined within 600 s: 1"):
        check_members(group)
    finish(group, end)
    (one, end), (two, other) = member(1, host=1, versions="bitgolf 9"), member(2)
    group = Group(PLACE, {1: one, 2: two})
    with pytest.raises(BitgolfError, match=r"host 1 \(b\) has bitgolf 9, the first host bitgolf"):
        check_members(group)
    finish(group, end, other)


def test_the_end_is_told_to_all() -> None:
    (one, end), (two, other) = member(1), member(2)
    group = Group(PLACE, {1: one, 2: two})
    assert finish(group, end, other) == [Finished(7), Finished(7)] and group.failure is None
