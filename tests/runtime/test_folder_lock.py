"""One writer per folder: who is refused, what is said of the holder, and what a killed holder leaves behind."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bitgolf.errors import BitgolfError
from bitgolf.runtime.folder_lock import LOCK_FILE, LockHolder, folder_lock

HOLD = (
    "import sys, time; from pathlib import Path; from bitgolf.runtime.folder_lock import folder_lock\n"
    "with folder_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the lock of a folder until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def leave_lock(folder: Path, holder: LockHolder) -> None:
    folder.mkdir()
    (folder / LOCK_FILE).write_bytes(msgspec.json.encode(holder))


def test_the_second_writer_is_told_who_the_first_is_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    process = hold(folder)
    try:
        with pytest.raises(BitgolfError) as refused, folder_lock(folder):
            pass
        named = str(refused.value)
        assert f"process {process.pid} on {socket.gethostname()}, since 20" in named and str(folder) in named
        assert "wait until it has finished" in named
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    left = (folder / LOCK_FILE).read_bytes()
    assert str(process.pid).encode() in left
    with folder_lock(folder):
        assert str(os.getpid()).encode() in (folder / LOCK_FILE).read_bytes()
    assert not (folder / LOCK_FILE).exists()


def test_no_trace_is_left_if_the_block_fails(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "runs" / "new", tmp_path / "there"):
        with pytest.raises(ValueError, match="refused"), folder_lock(folder):
            assert (folder / LOCK_FILE).exists()
            raise ValueError("refused")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_a_folder_with_results_is_kept_if_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="later"), folder_lock(tmp_path / "runs" / "new"):
        (tmp_path / "runs" / "new" / "result").write_text("x")
        raise ValueError("later")
    assert [path.name for path in (tmp_path / "runs" / "new").iterdir()] == ["result"]


def test_what_a_killed_process_left_is_as_before_after_a_failure(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    leave_lock(folder, LockHolder(1 << 22, socket.gethostname(), "2020"))
    os.utime(folder / LOCK_FILE, ns=(10**18, 10**18))
    before = (folder / LOCK_FILE).read_bytes()
    with pytest.raises(ValueError, match="refused"), folder_lock(folder):
        raise ValueError("refused")
    assert (folder / LOCK_FILE).read_bytes() == before and (folder / LOCK_FILE).stat().st_mtime_ns == 10**18


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/none")):
        with pytest.raises(BitgolfError, match="cannot write to the folder") as failed, folder_lock(folder):
            pass
        assert str(folder) in str(failed.value) and "hint" in str(failed.value)
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(
    ("holder", "free"),
    [
        (LockHolder(os.getpid(), socket.gethostname(), "2020"), False),
        (LockHolder(1 << 22, socket.gethostname(), "2020"), True),
        (LockHolder(1 << 22, "elsewhere", "2020"), False),
        (LockHolder(1 << 70, socket.gethostname(), "2020"), False),
    ],
    ids=["alive", "ended", "another host", "unknown"],
)
def test_without_flock_the_contents_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holder: LockHolder, free: bool
) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    leave_lock(tmp_path / "run", holder)
    if free:
        with folder_lock(tmp_path / "run"):
            pass
        return
    words = f"process {holder.pid} on {holder.host}"
    with pytest.raises(BitgolfError, match=words) as refused, folder_lock(tmp_path / "run"):
        pass
    assert ("remove" in str(refused.value)) == (holder.host == "elsewhere")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff" * 5000, b'{"pid":"x"}', b"[1]"])
def test_a_damaged_lock_file_is_no_holder(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK_FILE).write_bytes(content)
    with folder_lock(tmp_path):
        pass
    assert not (tmp_path / LOCK_FILE).exists()


def test_many_processes_at_once_never_hold_it_together(tmp_path: Path) -> None:
    """Each of four processes locks the folder a hundred times, and checks that it is alone while it holds the lock."""
    program = """
import sys, os
from pathlib import Path
from bitgolf.errors import BitgolfError
from bitgolf.runtime.folder_lock import folder_lock
folder, done = Path(sys.argv[1]), 0
while done < 100:
    try:
        with folder_lock(folder):
            os.mkdir(folder.parent / "alone")
            os.rmdir(folder.parent / "alone")
            done += 1
    except BitgolfError:
        pass
"""
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        assert process.communicate(timeout=60)[1] == b"" and process.returncode == 0
    assert not list(tmp_path.iterdir()) or [p.name for p in tmp_path.iterdir()] == ["run"]
