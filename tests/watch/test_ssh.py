"""A run of another machine over a real ssh: a server of this test's own, on the loopback device, with a key of its own."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bitgolf.errors import BitgolfError
from bitgolf.files import write_json
from bitgolf.runtime.folder_lock import LOCK_FILE
from bitgolf.watch import source
from bitgolf.watch.source import RunSource, SshSource, open_source

pytestmark = pytest.mark.ssh

SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
"""
CLIENT = """
Host box
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  StrictHostKeyChecking yes
  BatchMode yes
  LogLevel ERROR
"""
PRIVILEGE_SEPARATION = Path("/run/sshd")
"""A server that root starts needs this empty folder."""


def program(name: str) -> str:
    """Path of a program. The test skips if it is not installed."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"needs {name}: apt-get install openssh-server openssh-client")
    return found


@contextlib.contextmanager
def separation_folder() -> Iterator[None]:
    made = os.getuid() == 0 and not PRIVILEGE_SEPARATION.exists()
    if made:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755)
    try:
        yield
    finally:
        if made:
            PRIVILEGE_SEPARATION.rmdir()


@contextlib.contextmanager
def running_server(sshd: str, folder: Path, port: int) -> Iterator[None]:
    """The server, until the block ends, with its connections."""
    with (folder / "sshd.log").open("wb") as log, separation_folder():
        words = [sshd, "-D", "-e", "-f", str(folder / "sshd_config"), "-p", str(port)]
        process = subprocess.Popen(words, stderr=log, start_new_session=True)
        try:
            wait_for(lambda: process.poll() is not None or b"listening on" in (folder / "sshd.log").read_bytes())
            assert process.poll() is None, (folder / "sshd.log").read_text()
            yield
        finally:
            process.terminate()
            process.wait()


def wait_for(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A server, and a program `ssh` that finds it as the host `box`: the folder of their settings."""
    sshd, ssh, keygen = program("sshd"), program("ssh"), program("ssh-keygen")
    folder = tmp_path_factory.mktemp("ssh")
    for name in ("key", "host_key"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    known = (folder / "host_key.pub").read_text().split()[:2]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(known)}\n")
    (folder / "sshd_config").write_text(SERVER.format(port=port, folder=folder))
    (folder / "config").write_text(CLIENT.format(port=port, folder=folder, user=getpass.getuser()))
    (folder / "bin").mkdir()
    (folder / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {ssh} -F {folder}/config "$@"\n')
    (folder / "bin" / "ssh").chmod(0o755)
    with running_server(sshd, folder, port):
        yield folder


@pytest.fixture
def connected(server: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{server / 'bin'}:{os.environ['PATH']}")
    return server


def append(folder: Path, *kinds: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.jsonl").open("a") as handle:
        handle.write("".join(json.dumps({"event": kind, "time": time.time()}) + "\n" for kind in kinds))


def kinds(run: RunSource) -> list[str]:
    return [event["event"] for event in run.events()]


def readers(folder: Path) -> list[int]:
    """Processes that follow the log in a folder, the clients of ssh excepted."""
    found = list[int]()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdecimal() else []
            if words and words[0].endswith(b"tail") and str(folder / "log.jsonl").encode() in words:
                found.append(int(entry.name))
    return found


def test_a_run_is_followed_and_nothing_is_left_behind(connected: Path, tmp_path: Path) -> None:
    folder = tmp_path / "it's a run"
    append(folder, "run", "stage")
    with open_source(f"box:{folder}") as run:
        assert kinds(run) == ["run", "stage"]
        append(folder, "step")
        wait_for(lambda: kinds(run) == ["run", "stage", "step"])
        wait_for(lambda: readers(folder))
    wait_for(lambda: not readers(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["log.jsonl"], "nothing is written there"


def test_a_connection_that_the_server_breaks_is_made_again(
    connected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "RECONNECT_SECONDS", 0.0)
    append(tmp_path / "run", "run")
    with open_source(f"box:{tmp_path / 'run'}") as run:
        wait_for(lambda: readers(tmp_path / "run"))
        (tail,) = readers(tmp_path / "run")
        os.kill(tail, signal.SIGKILL)
        append(tmp_path / "run", "step")
        wait_for(lambda: kinds(run) == ["run", "step"])
        append(tmp_path / "run", "done")
        wait_for(lambda: kinds(run) == ["run", "step", "done"])


def test_the_process_there(connected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "ASK_SECONDS", 0.0)
    append(tmp_path / "run", "run")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": "2026-11-28 10:00:00 UTC"}
    with open_source(f"box:{tmp_path / 'run'}") as run:
        assert isinstance(run, SshSource) and run.process().exists is False
        write_json(tmp_path / "run" / LOCK_FILE, holder)
        assert run.process().exists


def test_the_command(connected: Path, tmp_path: Path) -> None:
    append(tmp_path / "run", "run")
    words = [sys.executable, "-m", "bitgolf", "watch", f"box:{tmp_path / 'run'}", "--once", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == f"box:{tmp_path / 'run'}"


def test_a_key_that_the_server_does_not_know(connected: Path, tmp_path: Path) -> None:
    accepted = connected / "key.pub"
    written = accepted.read_text()
    accepted.write_text("")
    try:
        with pytest.raises(BitgolfError, match=r"ssh failed: .*Permission denied"), open_source(f"box:{tmp_path}"):
            pass
    finally:
        accepted.write_text(written)
