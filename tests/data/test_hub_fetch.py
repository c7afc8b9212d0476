"""`data fetch` against a hub on 127.0.0.1: what is fetched, resumed, refused, and what each fault leads to."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from bitgolf.data.hub import download
from bitgolf.data.hub.client import HubClient
from bitgolf.data.hub.fetch import TransferProgress
from bitgolf.data.hub.plan import FetchPlan
from bitgolf.data.hub.published import ShardSource
from bitgolf.data.shards import find_shards, read_shard
from bitgolf.errors import BitgolfError, CorruptFileError, FormatVersionError, Interrupted, UsageError
from bitgolf.report.log import RunLog
from bitgolf.runtime.folder_lock import folder_lock
from helpers.command_line import run_command
from helpers.hub_repository import CASEOPS, REPOSITORY, SP1024, Fetcher, library_on, repository_files
from helpers.hub_server import Fault, HubServer, hub_server

pytest.importorskip("huggingface_hub", reason="needs huggingface_hub (extra `hub`)")
FILES = repository_files()
FIRST, VAL = f"{SP1024}/fineweb_train_000000.bin", f"{SP1024}/fineweb_val_000000.bin"
SIZE = len(FILES[FIRST])
ONE_SHARD = ["fetched.json", "fineweb_1024_bpe.model", "fineweb_train_000000.bin", "fineweb_val_000000.bin"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with hub_server() as hub, library_on(hub, tmp_path):
        hub.publish(REPOSITORY, FILES)
        yield hub


@pytest.fixture
def fetch(hub: HubServer, tmp_path: Path) -> Fetcher:
    return Fetcher(hub, tmp_path / "out")


def content(folder: Path, path: str, files: dict[str, bytes] = FILES) -> bool:
    """Whether the folder has a file of the repository, byte for byte."""
    return (folder / Path(path).name).read_bytes() == files[path]


def test_first_shards_validation_and_tokenizer_in_one_folder(hub: HubServer, fetch: Fetcher) -> None:
    fetched = fetch(2)
    assert fetch.names() == sorted([*ONE_SHARD, "fineweb_train_000001.bin"])
    assert all(content(fetch.folder, f"{SP1024}/{p.name}") for p in fetch.folder.glob("*.bin"))
    assert [p.name for p in find_shards(fetch.folder, "train")] == [f"fineweb_train_00000{i}.bin" for i in range(2)]
    assert (fetched.train_shards, fetched.train_shards_published, fetched.val_shards) == (2, 4, 1)
    assert (fetched.tokenizer, fetched.commit) == ("fineweb_1024_bpe.model", hub.main[REPOSITORY])
    assert fetched.bytes == fetched.bytes_fetched == sum((fetch.folder / name).stat().st_size for name in fetched.files)
    record = json.loads((fetch.folder / "fetched.json").read_text())
    assert record["repository"] == REPOSITORY and record["folder"] == SP1024 and record["commit"] == fetched.commit
    for name, entry in record["files"].items():
        assert entry["sha256"] == hashlib.sha256((fetch.folder / name).read_bytes()).hexdigest()
        assert entry["bytes"] == len(FILES[entry["path"]])
    assert fetch.waits == []


def test_a_repeated_call_lists_and_fetches_only_what_is_new(hub: HubServer, fetch: Fetcher) -> None:
    fetch(1)
    hub.requests.clear()
    assert fetch(1).bytes_fetched == 0 and len(hub.requests) == 1
    assert fetch(3).bytes_fetched == 2 * SIZE == hub.sent("/lfs/")
    assert fetch(0).train_shards == 0 and any("holds 3 files of an earlier call" in m for m in fetch.log.messages)
    assert fetch(None).train_shards == 4


def test_byte_sidecars_come_with_their_shards(fetch: Fetcher) -> None:
    variant = "sp8192_lossless_caps_caseops_v1_reserved"
    fetched = fetch(1, ShardSource(REPOSITORY, variant=variant))
    assert fetched.byte_sidecars == 2 and fetched.val_shards == 2 and fetched.train_shards == 1
    assert fetched.tokenizer == f"fineweb_8192_bpe_{variant.removeprefix('sp8192_')}.model"
    assert content(fetch.folder, f"{CASEOPS}/fineweb_val_bytes_000001.bin")
    assert len(find_shards(fetch.folder, "val")) == 2


def test_a_cut_connection_continues_where_it_was_cut(hub: HubServer, fetch: Fetcher) -> None:
    blob = hub.blob(FIRST)
    hub.faults += [Fault(blob, cut=30_000), Fault(blob, cut=20_000)]
    fetch(1)
    assert content(fetch.folder, FIRST) and hub.sent(blob) == SIZE
    assert [r.headers.get("range") for r in hub.requests if blob in r.path] == [None, "bytes=30000-", "bytes=50000-"]
    assert fetch.waits == [1.0, 1.0]  # data arrived in between, so the second failure is a first one again
    assert any("repetition 1 of 5" in message for message in fetch.log.messages)


def test_a_connection_that_is_always_cut_is_an_error_and_a_later_call_continues(hub: HubServer, fetch: Fetcher) -> None:
    blob = hub.blob(FIRST)
    hub.faults += [Fault(blob, cut=30_000), Fault(blob, times=-1, cut=0)]
    with pytest.raises(BitgolfError, match="gave up after 5 repetitions") as error:
        fetch(1)
    assert FIRST in error.value.where and "run the same command" in error.value.hint
    assert fetch.waits == [1.0, 2.0, 4.0, 8.0, 16.0] and "fineweb_train_000000.bin" not in fetch.names()
    hub.faults.clear()
    fetch(1)
    assert content(fetch.folder, FIRST) and hub.sent(blob) == SIZE and fetch.names() == ONE_SHARD


def test_a_server_without_ranges_sends_the_file_again(hub: HubServer, fetch: Fetcher) -> None:
    blob = hub.blob(FIRST)
    hub.faults += [Fault(blob, cut=30_000), Fault(blob, whole=True)]
    fetch(1)
    assert content(fetch.folder, FIRST) and hub.sent(blob) == SIZE + 30_000


CHANGES: dict[str, Any] = {
    "a flipped bit": lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
    "longer": lambda data: data + b"x",
    "shorter": lambda data: data[:-2],
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("change", CHANGES)
def test_wrong_content_is_deleted_and_fetched_once_more(change: str, hub: HubServer, fetch: Fetcher) -> None:
    hub.faults.append(Fault(hub.blob(FIRST), change=CHANGES[change]))
    fetch(1)
    assert content(fetch.folder, FIRST) and any("deleted, fetched again" in m for m in fetch.log.messages)


@pytest.mark.parametrize("change", CHANGES)
def test_content_that_stays_wrong_is_an_error(change: str, hub: HubServer, fetch: Fetcher) -> None:
    hub.faults.append(Fault(hub.blob(FIRST), times=-1, change=CHANGES[change]))
    with pytest.raises(CorruptFileError, match="fetched twice and deleted") as error:
        fetch(1)
    assert FIRST in error.value.where and "HF_ENDPOINT" in error.value.hint and fetch.waits == []
    assert fetch.names() == [name for name in ONE_SHARD if "train" not in name]


def test_a_shorter_file_is_noticed_when_it_is_resumed(hub: HubServer, fetch: Fetcher) -> None:
    blob = hub.blob(FIRST)
    for length in (50_000, 20_000):  # the range starts inside the shorter file, and after its end
        hub.faults += [Fault(blob, cut=30_000), Fault(blob, times=-1, change=lambda data, n=length: data[:n])]
        with pytest.raises(CorruptFileError, match="fetched twice and deleted"):
            fetch(1)
        hub.faults.clear()
    assert fetch.waits == [1.0, 1.0]  # for the cuts alone: another size is no reason to wait


def test_a_file_in_git_is_verified_by_its_blob(hub: HubServer, fetch: Fetcher) -> None:
    hub.faults.append(Fault("resolve/", times=-1, change=lambda data: data.upper()))
    with pytest.raises(CorruptFileError, match="Git blob identifier") as error:
        fetch(1)
    assert "fineweb_1024_bpe.model" in error.value.where


def test_a_published_file_that_is_no_shard(hub: HubServer, fetch: Fetcher) -> None:
    hub.publish(REPOSITORY, {**FILES, FIRST: b"no shard, but as published" * 100})
    with pytest.raises(CorruptFileError, match="deleted: not a shard") as error:
        fetch(1)
    assert FIRST in error.value.where and "fineweb_train_000000.bin" not in fetch.names()


def test_redirects_are_followed_and_the_token_stays_with_the_hub(
    hub: HubServer, fetch: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub.private.add(REPOSITORY)
    hub.faults += [Fault(f"resolve/{hub.main[REPOSITORY]}/{FIRST}", times=3, redirect=True)]
    fetch(1)
    assert content(fetch.folder, FIRST) and fetch.waits == []
    blobs = [request for request in hub.requests if "/lfs/" in request.path]
    assert blobs and not any("authorization" in request.headers for request in blobs)
    assert all("authorization" in request.headers for request in hub.requests if "/lfs/" not in request.path)


def test_endless_redirects_are_an_error_without_repetition(hub: HubServer, fetch: Fetcher) -> None:
    hub.faults.append(Fault(f"resolve/{hub.main[REPOSITORY]}/{FIRST}", times=-1, redirect=True))
    with pytest.raises(BitgolfError, match="redirects") as error:
        fetch(1)
    assert FIRST in error.value.where and fetch.waits == []


@pytest.mark.parametrize("path", ["/api/datasets", "/lfs/", "/resolve/"])
def test_429_waits_as_the_server_asks(path: str, hub: HubServer, fetch: Fetcher) -> None:
    hub.faults += [
        Fault(path, status=429, headers={"Retry-After": "7"}),
        Fault(path, status=429, headers={"RateLimit": '"resolvers";r=0;t=55'}),
        Fault(path, status=429, headers={"Retry-After": formatdate(time.time() + 300, usegmt=True)}),
    ]
    fetch(1)
    assert fetch.waits[:2] == [7.0, 55.0] and 290 < fetch.waits[2] <= 300
    assert any("429 Too Many Requests; repetition 1 of 5 in 7 s" in message for message in fetch.log.messages)
    assert content(fetch.folder, FIRST)


def test_a_wait_that_is_too_long_is_an_error(hub: HubServer, fetch: Fetcher) -> None:
    hub.faults.append(Fault("/lfs/", status=429, headers={"Retry-After": "4000"}))
    with pytest.raises(BitgolfError, match=r"429 .*asks to wait 4000 s"):
        fetch(1)
    assert fetch.waits == []


@pytest.mark.parametrize("path", ["/api/datasets", "/lfs/"])
def test_server_errors_are_repeated_then_reported(path: str, hub: HubServer, fetch: Fetcher) -> None:
    hub.faults += [Fault(path, status=500), Fault(path, status=503)]
    fetch(1)
    assert fetch.waits == [1.0, 2.0] and content(fetch.folder, FIRST)
    hub.faults.append(Fault(path, times=-1, status=502))
    with pytest.raises(BitgolfError, match="502 Bad Gateway; gave up after 5 repetitions"):
        fetch(2)


def test_a_hub_that_does_not_answer(hub: HubServer, fetch: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(BitgolfError, match="the connection failed") as error:
        fetch(1)
    assert error.value.where == REPOSITORY and len(fetch.waits) == 5 and not fetch.folder.exists()


def test_a_stalled_connection_is_cut_and_continued(
    hub: HubServer, fetch: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    go_on = threading.Event()
    hub.faults.append(Fault(hub.blob(FIRST), pause=lambda: go_on.wait(3)))
    fetch(1)
    go_on.set()
    assert content(fetch.folder, FIRST) and fetch.waits == [1.0]
    assert hub.requests[-1].headers["range"] == "bytes=16384-"


def test_an_invalid_variable_of_the_library() -> None:
    words, variable = (
        [sys.executable, "-m", "bitgolf", "data", "fetch", "a/b"],
        {"HF_ENDPOINT": "http://127.0.0.1:port"},
    )
    done = subprocess.run(words, env={**os.environ, **variable}, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "refuses the value of an environment variable" in done.stderr
    assert "Traceback" not in done.stderr and "HF_ENDPOINT" in done.stderr


def test_what_does_not_exist_is_named(hub: HubServer, fetch: Fetcher) -> None:
    with pytest.raises(UsageError, match="no such public dataset repository") as error:
        fetch(1, ShardSource("someone/else"))
    assert error.value.where == "someone/else" and "HF_TOKEN" in error.value.hint
    with pytest.raises(UsageError, match="no revision 'v9'"):
        fetch(1, revision="v9")
    with pytest.raises(UsageError, match="--train-shards 5 is more than the 4"):
        fetch(5)
    with pytest.raises(UsageError, match="not the name of a repository"):
        fetch(1, ShardSource("some--one/else"))
    assert not fetch.folder.exists() and fetch.waits == []


def test_a_private_repository_needs_a_token(hub: HubServer, fetch: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.private.add(REPOSITORY)
    with pytest.raises(UsageError, match=r"no such public dataset repository \(401\)") as error:
        fetch(1)
    assert "set HF_TOKEN" in error.value.hint
    for headers in ({"X-Error-Code": "GatedRepo"}, {}):
        hub.faults.append(Fault("/api", status=403, headers=headers))
        with pytest.raises(BitgolfError, match=r"refuses access \(403\)") as error:
            fetch(1)
        assert "accepting its terms" in error.value.hint
    monkeypatch.setenv("HF_TOKEN", "secret")
    fetch(1)
    assert content(fetch.folder, FIRST)


@pytest.mark.parametrize("headers", [{}, {"X-Error-Code": "EntryNotFound"}])
def test_a_listed_file_that_is_missing(headers: dict[str, str], hub: HubServer, fetch: Fetcher) -> None:
    hub.faults.append(Fault(f"resolve/{hub.main[REPOSITORY]}/{FIRST}", status=404, headers=headers))
    with pytest.raises(BitgolfError, match="listed, but missing") as error:
        fetch(1)
    assert error.value.where == f"{REPOSITORY}:{FIRST}"


LISTING = {"id": "a/b", "sha": "0" * 40, "siblings": [{"rfilename": "train_0.bin", "size": 1, "blobId": "0"}]}
NO_LISTINGS = [[], {}, {**LISTING, "sha": "main"}, {**LISTING, "sha": None}]
NO_LISTINGS += [{**LISTING, "siblings": siblings} for siblings in ([{"rfilename": "train_0.bin"}], [{}], [1], 1)]


@pytest.mark.parametrize("body", [b"<html>sign in</html>", *(json.dumps(value).encode() for value in NO_LISTINGS)])
def test_an_answer_that_is_not_a_listing(body: bytes, hub: HubServer, fetch: Fetcher) -> None:
    hub.faults.append(Fault("/api", change=lambda data: body))
    with pytest.raises(BitgolfError, match="not a listing") as error:
        fetch(1)
    assert "HF_ENDPOINT" in error.value.hint and hub.url in error.value.hint


def test_offline_mode_and_a_missing_package(hub: HubServer, fetch: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BitgolfError, match="HF_HUB_OFFLINE is set"):
        fetch(1)
    assert hub.requests == [] and fetch.waits == []
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BitgolfError, match="need the package huggingface_hub") as error:
        HubClient(fetch.log)
    assert error.value.hint == "pip install 'bitgolf[hub]'"


def test_the_disk_is_checked_before_the_first_byte(
    hub: HubServer, fetch: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 3 * SIZE - 100  # enough for two shards and the smaller files
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(free, 0, free))  # type: ignore
    with pytest.raises(BitgolfError, match=f"but the disk has {free:,} free") as error:
        fetch(4)
    assert "--train-shards 2 would fit" in error.value.hint
    assert hub.sent("/lfs/") == 0 and not fetch.folder.exists()
    assert fetch(2).train_shards == 2


def test_a_disk_that_fills_up(hub: HubServer, fetch: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    room, write_all = 30_000, download._write_all

    def write_some(handle: Any, data: bytes) -> None:
        room_here = room - handle.tell() if "train" in handle.name else len(data)
        write_all(handle, data[: max(room_here, 0)])
        if room_here < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(download, "_write_all", write_some)
        with pytest.raises(BitgolfError, match="No space left on device") as error:
            fetch(1)
    assert error.value.where == str(fetch.folder) and "it continues" in error.value.hint
    assert "fineweb_train_000000.bin" not in fetch.names()
    before = hub.sent(hub.blob(FIRST))
    fetch(1)
    assert content(fetch.folder, FIRST) and hub.sent(hub.blob(FIRST)) - before == SIZE - room


def test_a_full_file_system(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        fetch = Fetcher(hub, disk / "out")
        with monkeypatch.context() as patch:  # the space is taken by others after it was checked
            patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 40, 0, 1 << 40))  # type: ignore
            with pytest.raises(BitgolfError, match="No space left on device"):
                fetch(1)
        assert "fineweb_train_000000.bin" not in fetch.names()
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        fetch(1)
        assert content(fetch.folder, FIRST)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


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
