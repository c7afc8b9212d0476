"""Sources of a watched run: a folder, and another machine, played by a program `ssh` that runs commands here."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bitgolf.errors import BitgolfError, UsageError
from bitgolf.files import write_json
from bitgolf.runtime.folder_lock import LOCK_FILE, folder_lock
from bitgolf.watch import source
from bitgolf.watch.source import FolderSource, RunSource, SshSource, open_source

SSH = """#!/bin/sh
# Plays ssh: writes its arguments to a file, and runs the command in the folder HOME, as a login there would.
printf '%s\\n' "$*" >> "$SSH_LOG"
[ "$1" = -- ] || exit 64
[ "$2" = unknown ] && { echo "ssh: Could not resolve hostname unknown" >&2; exit 255; }
cd "$HOME" && exec sh -c "$3"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder on the other machine. The program `ssh` is found first."""
    programs, home = tmp_path / "programs", tmp_path / "home folder"
    for folder in (programs, home):
        folder.mkdir()
    (programs / "ssh").write_text(SSH)
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SSH_LOG", str(tmp_path / "ssh.log"))
    return home


def append(folder: Path, *kinds: str, end: str = "\n") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.jsonl").open("a") as handle:
        handle.write("".join(json.dumps({"event": kind}) + "\n" for kind in kinds[:-1]))
        handle.write(json.dumps({"event": kinds[-1]}) + end)


def kinds(run: RunSource) -> list[str]:
    return [event["event"] for event in run.events()]


def wait_for(found: Callable[[], object], expected: object) -> None:
    deadline = time.monotonic() + 30
    while (last := found()) != expected:
        assert time.monotonic() < deadline, f"{last!r}, not {expected!r}"
        time.sleep(0.01)


@pytest.fixture
def dead_process() -> Iterator[int]:
    """The id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        yield process.pid


def lock(folder: Path, process: int, host: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    holder = {"pid": process, "host": host or socket.gethostname(), "started": "2026-11-28 10:00:00 UTC"}
    write_json(folder / LOCK_FILE, holder)


def test_a_folder_is_followed(tmp_path: Path) -> None:
    run = FolderSource(tmp_path / "run")
    assert kinds(run) == []
    append(tmp_path / "run", "run", "step", end="")
    assert kinds(run) == ["run"]
    append(tmp_path / "run", "", end="\n")
    (tmp_path / "run" / "log.jsonl").write_text('{"event": "new"}\n')
    assert kinds(run) == ["new"], "a log that was replaced"


def test_the_process_of_a_folder(tmp_path: Path, dead_process: int) -> None:
    """The lock is read, and neither taken nor changed."""
    run = FolderSource(tmp_path)
    assert run.process() == (False, "")
    with folder_lock(tmp_path):
        before = (tmp_path / LOCK_FILE).read_bytes()
        assert run.process().exists and f"process {os.getpid()} on" in run.process().name
        assert (tmp_path / LOCK_FILE).read_bytes() == before
    lock(tmp_path, dead_process)
    assert run.process().exists is False and f"process {dead_process}" in run.process().name
    lock(tmp_path, dead_process, "another-machine")
    assert run.process().exists is None


def test_another_machine_is_followed(home: Path, tmp_path: Path) -> None:
    folder = home / "runs" / "it's here"
    append(folder, "run", "stage", end="")
    with open_source("box:runs/it's here") as run:
        assert kinds(run) == ["run"] and run.name == "box:runs/it's here"
        with (folder / "log.jsonl").open("a") as handle:
            handle.write("\n")
        append(folder, "step")
        wait_for(lambda: kinds(run), ["run", "stage", "step"])
        assert isinstance(run, SshSource) and run._tail
        tail = run._tail
    assert tail.poll() is not None, "no process is left behind"
    asked = (tmp_path / "ssh.log").read_text().splitlines()
    assert all(line.startswith("-- box ") for line in asked) and len(asked) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["log.jsonl"], "nothing is written there"


def test_a_run_of_another_machine_that_has_not_begun(home: Path) -> None:
    with open_source("box:~/later/") as run:
        assert kinds(run) == []
        append(home / "later", "run")
        wait_for(lambda: kinds(run), ["run"])


def test_the_process_of_another_machine(home: Path, dead_process: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has gone has written all events: the log is read again before it is reported."""
    monkeypatch.setattr(source, "ASK_SECONDS", 0.0)
    append(home / "run", "run")
    with open_source("box:run") as run:
        assert run.process() == (False, "")
        lock(home / "run", os.getpid(), subprocess.check_output(["hostname"], text=True).strip())
        assert run.process().exists
        append(home / "run", "step")
        lock(home / "run", dead_process, subprocess.check_output(["hostname"], text=True).strip())
        assert run.process().exists is False and kinds(run) == ["run", "step"]
        lock(home / "run", dead_process, "a-third-machine")
        assert run.process().exists is None


def test_a_connection_that_breaks_is_made_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(source, "RECONNECT_SECONDS", 0.0)
    append(home / "run", "run")
    with open_source("box:run") as run:
        assert isinstance(run, SshSource) and run._tail
        first = run._tail
        first.kill()
        first.wait()
        append(home / "run", "step")
        monkeypatch.setattr(run, "_host", "unknown")
        assert kinds(run) == kinds(run) == ["run"]
        said = " ".join(capsys.readouterr().err.split())
        assert said.count("Could not resolve hostname unknown; it is tried again") == 1
        monkeypatch.setattr(run, "_host", "box")
        wait_for(lambda: kinds(run), ["run", "step"])
        assert run._tail is not first


def test_a_host_that_cannot_be_reached(home: Path) -> None:
    said = r"unknown:run: ssh failed: ssh: Could not resolve.*\n.*ssh unknown"
    with pytest.raises(BitgolfError, match=said), open_source("unknown:run"):
        pass


def test_a_log_that_may_not_be_read(home: Path) -> None:
    (home / "run" / "log.jsonl").mkdir(parents=True)
    with pytest.raises(BitgolfError, match="ssh failed: exit status 1"), open_source("box:run"):
        pass


@pytest.mark.parametrize("run", ["-oProxyCommand=evil:run", "a\nb:run", "\x1b[31m:run"])
def test_a_host_is_no_option(run: str, home: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not the name of a host"), open_source(run):
        pass
    assert not (tmp_path / "ssh.log").exists()


def test_a_path_is_no_command(home: Path, tmp_path: Path) -> None:
    with open_source(f"box:run; touch {tmp_path}/evil $(touch {tmp_path}/evil)") as run:
        assert kinds(run) == []
    assert not (tmp_path / "evil").exists()


def test_without_a_program_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BitgolfError, match="no program ssh"), open_source("box:run"):
        pass


def test_a_folder_with_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    append(tmp_path / "box:run", "run")
    with open_source("box:run") as run:
        assert isinstance(run, FolderSource) and kinds(run) == ["run"]
