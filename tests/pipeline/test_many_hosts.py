"""One run on two hosts equals that of one process group of the same size on one host."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bitgolf.config.recipe_file import write_recipe
from bitgolf.config.spec import Spec
from bitgolf.files import read_json
from bitgolf.pipeline.execute import ExecutionOptions, run_recipe
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.recipes.recipe import Recipe
from bitgolf.training.checkpoint import load_latest
from helpers.forked import Finished, ForkedProcess
from helpers.live_processes import children_of, is_alive, wait_until
from helpers.many_hosts import Host, finish_all, free_port, start_agents, start_ranks, start_tasks
from helpers.toy import toy_recipe
from helpers.toy_run import scalable_recipe
from helpers.toy_training import make_data

WITHOUT_SCORES = ("--score-tokens", "0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "first")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def two_hosts(folder: Path, recipe: Spec[Recipe], data: Path, *words: str, out: str = "run") -> list[Host]:
    """Two hosts with a folder and with shards of their own. out: of each host, unless it is an absolute path."""
    write_recipe(folder / "toy.json", recipe)
    hosts = list[Host]()
    for number in range(2):
        shards = shutil.copytree(data, folder / f"shards{number}", dirs_exist_ok=True)
        own = ["run", "../toy.json", "--shards", str(shards), "--out", out, *words]
        hosts.append(Host(folder / f"host{number}", own))
        hosts[-1].folder.mkdir(exist_ok=True)
    return hosts


def one_host(folder: Path, recipe: Spec[Recipe], data: Path, *, processes: int = 2, score: bool = False) -> Path:
    given = GivenInputs(shards=data, seed=0, score_tokens="all" if score else 0)
    run_recipe(recipe, given, ExecutionOptions(processes), out=folder)
    return folder


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    log = run / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def losses(run: Path) -> list[float]:
    return [event["loss"] for event in events(run, "step")]


def check_equal(run: Path, other: Path) -> None:
    assert losses(run) == losses(other) != []
    assert (run / "artifact.bg").read_bytes() == (other / "artifact.bg").read_bytes()
    assert read_json(run / "train.json")["processes"] == read_json(other / "train.json")["processes"] == 2


def check_ended(done: Sequence[Finished], status: int, *words: str) -> None:
    """All processes have this status, and the words are in the output of the first one only."""
    assert [one.status for one in done] == [status] * len(done), [one.output for one in done]
    outputs = [" ".join(one.output.split()) for one in done]  # long lines are broken
    for word in words:
        assert [output.count(word) for output in outputs] == [1] + [0] * (len(done) - 1), outputs


def wait_for_step(run: Path, step: int, processes: Sequence[ForkedProcess]) -> None:
    deadline = time.monotonic() + 60
    while len(losses(run)) < step:
        assert all(process.status is None for process in processes) and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_two_hosts_with_folders_of_their_own_equal_one_host(tmp_path: Path, data: Path) -> None:
    """The run's folder is on the first host alone; the other one writes nothing."""
    recipe = toy_recipe(steps=8).set("proof", None)
    hosts = two_hosts(tmp_path, recipe, data, *WITHOUT_SCORES)
    done = finish_all(start_ranks(hosts))
    check_ended(done, 0, "2 processes on 2 hosts have joined")
    check_equal(tmp_path / "host0" / "run", one_host(tmp_path / "one", recipe, data))
    assert list((tmp_path / "host1").iterdir()) == []
    assert "host 1 (" in done[1].output and "warning" not in done[1].output


@pytest.mark.exhaustive
def test_a_host_with_other_shards_is_named_before_training(tmp_path: Path, data: Path) -> None:
    hosts = two_hosts(tmp_path, toy_recipe(steps=8).set("proof", None), data, *WITHOUT_SCORES)
    shard = tmp_path / "shards1" / "train_000000.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    done = finish_all(start_ranks(hosts))
    check_ended(done, 2, "): the shards differ from those of the first host: train_000000.bin has digest")
    assert not (tmp_path / "host0" / "run" / "checkpoint").exists()


@pytest.mark.exhaustive
def test_tasks_of_slurm_on_a_shared_disk_calibrate_and_score_as_one_host(tmp_path: Path, data: Path) -> None:
    hosts = two_hosts(tmp_path, scalable_recipe(), data, out=str(tmp_path / "shared"))
    check_ended(finish_all(start_tasks(hosts, os.getpid())), 0)
    other = one_host(tmp_path / "one", scalable_recipe(), data, score=True)
    check_equal(tmp_path / "shared", other)
    bits = [[event["bits"] for event in events(run, "score")] for run in (tmp_path / "shared", other)]
    assert bits[0] == bits[1] != []
    assert [events(run, "calibration")[0]["processes"] for run in (tmp_path / "shared", other)] == [2, 2]
    words = ["score", str(tmp_path / "shared" / "artifact.bg"), "--shards", str(data), "--json"]
    done = finish_all(start_tasks([Host(tmp_path / f"host{number}", words) for number in range(2)], os.getpid() + 1))
    check_ended(done, 0)
    assert f'"bits": {bits[0][0]!r}' in done[0].output and '"processes": 2' in done[0].output
    assert "bits" not in done[1].output


@pytest.mark.exhaustive
@pytest.mark.parametrize("rendezvous", ["static", "c10d"])
def test_torchrun_on_two_hosts_equals_one_host(tmp_path: Path, data: Path, rendezvous: str) -> None:
    hosts, port = two_hosts(tmp_path, scalable_recipe(), data), free_port()
    places = {
        "static": ["--node-rank=NUMBER", "--master-addr=127.0.0.1", f"--master-port={port}"],
        "c10d": ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=test"],
    }
    done = finish_all(start_agents(hosts, *places[rendezvous]))
    assert [one.status for one in done] == [0, 0], [one.output for one in done]
    (run,) = tmp_path.glob("host*/run")  # which host is the first is not determined with c10d
    check_equal(run, one_host(tmp_path / "one", scalable_recipe(), data, score=True))


@pytest.mark.exhaustive
def test_two_hosts_of_two_processes_have_text_copied(tmp_path: Path, data: Path) -> None:
    """Text is prepared on the first host. Both processes of the other host use one copy of the files."""
    write_recipe(tmp_path / "toy.json", scalable_recipe().set("calibrate.source.batches", 4))
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"document {i} " * (30 + i % 7)}) + "\n" for i in range(300)))
    words = ["run", "../toy.json", "--text", str(text), "--out", "run", *WITHOUT_SCORES]
    hosts = [Host(tmp_path / f"host{number}", words) for number in range(2)]
    check_ended(finish_all(start_ranks(hosts, processes=2)), 0)
    assert read_json(tmp_path / "host0" / "run" / "train.json")["processes"] == 4
    assert list((tmp_path / "host1").iterdir()) == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("receiver", [0, 1])
def test_a_signal_on_one_host_stops_all_and_the_run_continues(tmp_path: Path, data: Path, receiver: int) -> None:
    """Also with one process instead of two."""
    recipe = toy_recipe(steps=2000)
    hosts = two_hosts(tmp_path, recipe, data, *WITHOUT_SCORES)
    processes, run = start_ranks(hosts), tmp_path / "host0" / "run"
    wait_for_step(run, 3, processes)
    os.kill(processes[receiver].pid, signal.SIGTERM)
    check_ended(finish_all(processes), 130, "training was stopped by a signal")
    found = load_latest(run / "checkpoint")
    assert found and 3 <= found.step == len(losses(run)) < 2000
    assert not (run / ".lock").exists()
    (host,) = two_hosts(tmp_path, recipe, data, *WITHOUT_SCORES, "--resume")[:1]
    alone = start_ranks([host])
    wait_for_step(run, found.step + 3, alone)
    os.kill(alone[0].pid, signal.SIGINT)
    assert finish_all(alone)[0].status == 130
    assert [event["step"] for event in events(run, "resume")] == [found.step]


@pytest.mark.exhaustive
def test_two_hosts_continue_from_the_checkpoint_of_the_first(tmp_path: Path, data: Path) -> None:
    recipe = toy_recipe(steps=2000)
    hosts = two_hosts(tmp_path, recipe, data, *WITHOUT_SCORES)
    run = tmp_path / "host0" / "run"
    for words in ([], ["--resume"]):
        before = len(losses(run))
        processes = start_ranks([Host(host.folder, [*host.words, *words]) for host in hosts])
        wait_for_step(run, before + 3, processes)
        os.kill(processes[1].pid, signal.SIGINT)
        check_ended(finish_all(processes), 130, "training was stopped by a signal")
    assert len(events(run, "resume")) == 1
    assert [event["step"] for event in events(run, "step")] == list(range(1, len(losses(run)) + 1))


@pytest.mark.exhaustive
def test_a_killed_worker_of_another_host_ends_all_with_one_message(tmp_path: Path, data: Path) -> None:
    hosts = two_hosts(tmp_path, toy_recipe(steps=2000), data, *WITHOUT_SCORES)
    processes, run = start_ranks(hosts), tmp_path / "host0" / "run"
    wait_for_step(run, 3, processes)
    (worker,) = children_of(processes[1].pid)
    os.kill(worker, signal.SIGKILL)
    check_ended(finish_all(processes), 1, "process 1 of 2 (counted from 0; host 1 (", "was ended by SIGKILL")


@pytest.mark.exhaustive
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_all(tmp_path: Path, data: Path, killed: int) -> None:
    hosts = two_hosts(tmp_path, toy_recipe(steps=2000), data, *WITHOUT_SCORES)
    processes, run = start_ranks(hosts), tmp_path / "host0" / "run"
    wait_for_step(run, 3, processes)
    workers = [child for process in processes for child in children_of(process.pid)]
    processes[killed].kill()
    done = finish_all(processes)
    assert (done[killed].status, done[1 - killed].status) == (-signal.SIGKILL, 1)
    output = " ".join(done[1 - killed].output.split())
    assert output.count(f"process {killed} of 2 (counted from 0)") == 1, output
    assert wait_until(lambda: not any(map(is_alive, workers)), 20)


@pytest.mark.exhaustive
def test_a_run_on_the_second_host_is_not_begun_again_on_the_first(tmp_path: Path, data: Path) -> None:
    recipe = toy_recipe(steps=4).set("proof", None)
    hosts = two_hosts(tmp_path, recipe, data, *WITHOUT_SCORES)
    check_ended(finish_all(start_ranks(hosts)), 0)
    done = finish_all(start_ranks(hosts[::-1]))
    check_ended(done, 2, "has a run in this folder, but the first host has none")
    assert not (tmp_path / "host1" / "run").exists()
