"""`data fetch` against a hub on 127.0.0.1: what is fetched, resumed, refused, and what each fault leads to."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from bitgolf.data.hub import download
from bitgolf.data.hub.client import HubClient
from bitgolf.data.hub.published import ShardSource
from bitgolf.data.shards import find_shards
from bitgolf.errors import BitgolfError, CorruptFileError, UsageError
from helpers.hub_files import FILES, FIRST, ONE_SHARD, SIZE, content
from helpers.hub_repository import CASEOPS, REPOSITORY, SP1024, Fetcher
from helpers.hub_server import Fault, HubServer

pytest.importorskip("huggingface_hub", reason="needs huggingface_hub (extra `hub`)")


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
