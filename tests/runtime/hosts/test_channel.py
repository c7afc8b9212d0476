"""Tests of messages and files between the processes of a group."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from multiprocessing.connection import Client, Listener
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.runtime.hosts import channel
from bitgolf.runtime.hosts.channel import (
    ANY,
    Channel,
    Hello,
    Provide,
    SentFile,
    Start,
    WorkerEnded,
    accept_members,
    connect,
    listener_for,
    publish,
)
from bitgolf.runtime.hosts.inputs import HostFile, HostInputs
from bitgolf.runtime.hosts.place import Place
from helpers.many_hosts import free_port

TEXTS = st.text(max_size=20)
MESSAGES = st.one_of(
    st.builds(Hello, st.integers(0, 9), st.integers(0, 9), TEXTS, st.booleans(), TEXTS, st.integers(0, 8)),
    st.builds(Start, TEXTS, st.integers(0, 1 << 16)),
    st.builds(WorkerEnded, st.integers(0, 9), st.integers(-20, 200), st.none(), TEXTS, st.lists(TEXTS).map(tuple)),
    st.builds(
        lambda files: Provide(HostInputs(files=files)),
        st.lists(st.builds(HostFile, TEXTS, st.integers(0), TEXTS)).map(tuple),
    ),
)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    channels = connected()
    yield channels
    for end in channels:
        end.close()


@given(messages=st.lists(MESSAGES, max_size=5))
def test_messages_arrive_as_they_were_sent(messages: list[ANY]) -> None:
    one, other = connected()
    for message in messages:
        one.send(message)
    assert [other.receive() for _ in messages] == messages
    one.close()
    with pytest.raises(EOFError):
        other.receive()
    with pytest.raises(EOFError):
        for _ in range(100):
            other.send(Start("", 0))
    other.close()


def connected() -> tuple[Channel, Channel]:
    """Two ends of a connection over the loopback device."""
    with Listener(("127.0.0.1", 0), "AF_INET") as listener:
        one = Client(listener.address)
        return Channel(one), Channel(listener.accept())


@pytest.mark.parametrize("size", [0, 1, 10, 11, 35])
def test_files_arrive_in_pieces(
    ends: tuple[Channel, Channel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(channel, "PIECE_BYTES", 10)
    (tmp_path / "sent").write_bytes(bytes(range(size)))
    ends[0].send_file("a/b", tmp_path / "sent")
    ends[0].send(Start("next", 1))
    announced = ends[1].receive()
    assert isinstance(announced, SentFile) and announced == SentFile("a/b", size)
    ends[1].receive_file(announced, tmp_path / "new" / "received")
    assert (tmp_path / "new" / "received").read_bytes() == bytes(range(size))
    assert ends[1].receive() == Start("next", 1)


def test_a_file_that_cannot_be_saved_is_received_nevertheless(ends: tuple[Channel, Channel], tmp_path: Path) -> None:
    """So that the next message is found."""
    (tmp_path / "sent").write_bytes(b"abc")
    ends[0].send_file("a", tmp_path / "sent")
    ends[0].send(Start("next", 1))
    announced = ends[1].receive()
    assert isinstance(announced, SentFile)
    with pytest.raises(OSError):
        ends[1].receive_file(announced, tmp_path)
    assert ends[1].receive() == Start("next", 1)


def test_a_process_of_the_group_is_accepted_and_others_are_not() -> None:
    """Not even one that knows how to introduce itself, or one that says nothing."""
    variables = {"MASTER_PORT": str(free_port())}
    first, second = (Place(rank, 2, rank, 0, "127.0.0.1", variables) for rank in range(2))
    found = queue.SimpleQueue[tuple[Channel, Hello]]()
    hello = Hello(1, 0, "here", False, "1", 0)
    with listener_for(first) as listener:
        assert listener.address[0] == "127.0.0.1"
        shared = publish(first, listener, "secret")
        joined = lambda channel, greeting: found.put((channel, greeting))  # noqa: E731
        threading.Thread(target=accept_members, args=(listener, "secret", joined), daemon=True).start()
        address = ("127.0.0.1", int(listener.address[1]))
        with socket.create_connection(address), socket.create_connection(address) as stranger:
            stranger.sendall(b"\0\0\0\4junk")
            impostor = Channel(Client(address))
            impostor.send(msgspec.structs.replace(hello, secret="another"))
            with pytest.raises(EOFError):
                impostor.receive()
            own = connect(second, hello)
            accepted, greeting = found.get(timeout=10)
        assert greeting == msgspec.structs.replace(hello, secret="secret") and found.empty()
        accepted.send(Start("x", 2))
        assert own.receive() == Start("x", 2)
        for end in (own, accepted, impostor):
            end.close()
        del shared
