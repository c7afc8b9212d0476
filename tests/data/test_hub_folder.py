"""`data fetch` into a folder that holds something: revisions, stopped calls, files that are there, the record."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bitgolf.data.hub.fetch import TransferProgress
from bitgolf.data.hub.plan import FetchPlan
from bitgolf.data.hub.published import ShardSource
from bitgolf.data.shards import read_shard
from bitgolf.errors import BitgolfError, CorruptFileError, FormatVersionError, Interrupted, UsageError
from bitgolf.report.log import RunLog
from bitgolf.runtime.folder_lock import folder_lock
from helpers.command_line import run_command
from helpers.hub_files import FILES, FIRST, ONE_SHARD, SIZE, VAL, content
from helpers.hub_repository import REPOSITORY, SP1024, Fetcher, repository_files
from helpers.hub_server import Fault, HubServer

pytest.importorskip("huggingface_hub", reason="needs huggingface_hub (extra `hub`)")


def test_a_folder_stays_at_its_first_revision(hub: HubServer, fetch: Fetcher) -> None:
    first = fetch(1).commit
    changed = repository_files(1)
    second = hub.publish(REPOSITORY, changed)
    assert fetch(2).commit == first and content(fetch.folder, f"{SP1024}/fineweb_train_000001.bin")
    assert any(f"is now at {second}; the folder stays at {first}" in message for message in fetch.log.messages)
    with pytest.raises(UsageError, match=f"holds revision {first}, but --revision main is {second}"):
        fetch(2, revision="main")
    assert fetch(2, revision=first).bytes_fetched == 0
    newer = Fetcher(hub, fetch.folder.with_name("newer"))
    assert newer(1).commit == second and content(newer.folder, FIRST, changed)


def test_an_interrupted_transfer_is_not_continued_with_another_revision(hub: HubServer, fetch: Fetcher) -> None:
    hub.faults += [Fault(hub.blob(FIRST), cut=30_000), Fault(hub.blob(FIRST), times=-1, cut=0)]
    with pytest.raises(BitgolfError, match="gave up"):
        fetch(1)
    (fetch.folder / "fetched.json").unlink()
    changed = repository_files(1)
    hub.publish(REPOSITORY, {**FILES, FIRST: changed[FIRST]})
    hub.requests.clear()
    fetch(1)
    assert content(fetch.folder, FIRST, changed) and hub.sent("/lfs/") == SIZE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_process_is_continued(number: signal.Signals, hub: HubServer, fetch: Fetcher, tmp_path: Path) -> None:
    arrived, go_on = threading.Event(), threading.Event()
    pieces = iter([lambda: None, lambda: (arrived.set(), go_on.wait(30))])
    hub.faults.append(Fault(hub.blob(FIRST), pause=lambda: next(pieces, lambda: None)()))
    words = ["data", "fetch", f"{REPOSITORY}:{SP1024}", "--train-shards", "1", "--out", str(fetch.folder)]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "bitgolf", *words],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells ignore it in background jobs
    ) as process:
        assert arrived.wait(60)
        deadline = time.monotonic() + 30  # until the bytes are on the disk
        while sum(p.stat().st_size for p in fetch.folder.glob(".*train*.part")) < 32_768:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        errors = process.communicate(timeout=30)[1]
        go_on.set()
    if number == signal.SIGINT:
        assert process.returncode == 130 and "run the same command again" in errors and "Traceback" not in errors
    assert "fineweb_train_000000.bin" not in fetch.names()
    hub.requests.clear()
    fetch(1)
    assert content(fetch.folder, FIRST) and fetch.names() == ONE_SHARD
    assert hub.sent("/lfs/") == SIZE - 32_768


def test_an_interrupt_says_that_it_continues(fetch: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(progress: TransferProgress, count: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TransferProgress, "received", interrupt)
    with pytest.raises(Interrupted, match="interrupted with 0 of 3 files fetched"):
        fetch(1)


def test_files_that_are_there_are_verified_and_kept(hub: HubServer, fetch: Fetcher) -> None:
    fetch.folder.mkdir()
    (fetch.folder / "fineweb_train_000000.bin").write_bytes(FILES[FIRST])
    assert fetch(1).bytes_fetched == len(FILES[VAL]) + 36 and hub.sent(hub.blob(FIRST)) == 0
    assert fetch.log.messages[0] == "verifying fineweb_train_000000.bin"


@pytest.mark.parametrize("name", ["fineweb_train_000000.bin", "fineweb_1024_bpe.model"])
def test_a_file_of_others_is_never_overwritten(name: str, fetch: Fetcher) -> None:
    fetch.folder.mkdir()
    (fetch.folder / name).write_bytes(b"of others")
    with pytest.raises(UsageError, match="is not the published one") as error:
        fetch(1)
    assert name in error.value.where and (fetch.folder / name).read_bytes() == b"of others"
    assert fetch.names() == [name]


def test_other_shards_and_other_sets_in_the_folder_are_refused(fetch: Fetcher) -> None:
    fetch.folder.mkdir()
    (fetch.folder / "train_000000.bin").write_bytes(b"")
    with pytest.raises(UsageError, match=r"does not fetch: train_000000\.bin"):
        fetch(1)
    (fetch.folder / "train_000000.bin").unlink()
    fetch(1)
    with pytest.raises(UsageError, match="the folder holds"):
        fetch(1, ShardSource(REPOSITORY, variant="sp8192_lossless_caps_caseops_v1_reserved"))


def test_a_file_that_changed_is_fetched_again(hub: HubServer, fetch: Fetcher) -> None:
    fetch(1)
    path = fetch.folder / "fineweb_train_000000.bin"
    path.write_bytes(b"damaged")
    assert fetch(1).bytes_fetched == SIZE and content(fetch.folder, FIRST)
    status, data = path.stat(), bytearray(FILES[FIRST])
    data[2000] ^= 1
    path.write_bytes(data)  # the size and the time of change are those of before
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fetch(1).bytes_fetched == 0 and not content(fetch.folder, FIRST)
    assert fetch(1, verify=True).bytes_fetched == SIZE and content(fetch.folder, FIRST)
    path.touch()
    assert fetch(1).bytes_fetched == 0 and fetch.log.messages[-4] == "verifying fineweb_train_000000.bin"


def test_a_damaged_record(fetch: Fetcher) -> None:
    fetch(1)
    record = fetch.folder / "fetched.json"
    value = json.loads(record.read_text())
    for text, kind in [("{", CorruptFileError), ("[]", FormatVersionError), ('{"format": 1}', CorruptFileError)]:
        record.write_text(text)
        with pytest.raises(kind, match=r"JSON|format|not a record") as error:
            fetch(1)
        assert error.value.where == str(record)
    record.write_text(json.dumps({**value, "format": 2}))
    with pytest.raises(FormatVersionError, match="format 2"):
        fetch(1)
    record.unlink()
    assert fetch(1).bytes_fetched == 0


def test_two_calls_at_once(fetch: Fetcher) -> None:
    fetch.folder.mkdir()
    with folder_lock(fetch.folder), pytest.raises(BitgolfError, match="another process is writing to this folder"):
        fetch(1)
    assert fetch.names() == []
    fetch(1)


def test_progress_shows_the_rate_of_this_call_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    progress = TransferProgress(RunLog(), FetchPlan(missing=(), total=3 * 10**9, present=10**9, partial=0))
    shown, progress.file = list[str](), "a.bin (1 of 2)"
    progress.work.show = lambda state: shown.append(state.line(80))
    now[0] = 110.0
    progress.received(5 * 10**8)
    assert shown == ["fetch: 50 %, 30 s left, a.bin (1 of 2), 50.0 MB/s, 1.50 GB of 3.00 GB"]
    progress.received(-(10**9))
    assert shown[1].startswith("fetch: 17 %, a.bin"), "after bytes were discarded, the rate is not known"


def test_the_command_line(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_command("data", "fetch", REPOSITORY, "--variant", "sp1024", "--train-shards", "1", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["folder"] == "fineweb10B_sp1024" and result["train_shards"] == 1
    assert len(read_shard(tmp_path / result["folder"] / "fineweb_train_000000.bin")) == 40_000
    assert "1 of 4 training shards, 1 validation shards" in done.stderr
    again = run_command("data", "fetch", f"{REPOSITORY}:{SP1024}", "--train-shards", "1")
    assert (
        "fineweb10B_sp1024: 1 training shards, 1 validation shards" in again.stdout and "0.0 MB fetched" in again.stdout
    )
    assert run_command("data", "fetch", f"{REPOSITORY}:nowhere").returncode == 2
