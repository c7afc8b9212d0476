"""`bitgolf doctor` without a run: what this machine can do, and what is missing for what."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bitgolf.commands import machine
from bitgolf.commands.machine import EXTRAS, describe_machine
from bitgolf.commands.machine_table import machine_table
from bitgolf.errors import BitgolfError
from bitgolf.pack.byte_coders import Brotli
from bitgolf.runtime.device import Device
from helpers.command_line import run_command


def test_the_machine_that_runs_the_tests() -> None:
    done = run_command("doctor", "--json")
    assert done.returncode == 0, done.stderr
    d = json.loads(done.stdout)
    assert d["versions"]["torch"] == torch.__version__ and d["cpu"]["cores"] >= 1 and d["cpu"]["memory_bytes"] > 10**8
    assert {coder["name"] for coder in d["coders"]} >= {"RangeCoder", "Brotli", "Zstd", "LZMA", "Zlib"}
    assert {"TrellisCodec", "IntRows", "Float"} <= set(d["codecs"]) and {"sliding", "lora"} <= set(d["methods"])
    assert bool(d["gpus"]) == torch.cuda.is_available() and d["free_bytes"] > 0
    assert [row["available"] for row in d["kernels"]] == [False] * len(d["kernels"]) or d["gpus"]
    text = run_command("doctor").stdout
    assert d["cpu"]["model"] in text and "RangeCoder" in text and "Fused kernels" in text


def test_the_extras_are_those_of_the_distribution() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = {name: packages for name, packages in project["optional-dependencies"].items() if name in EXTRAS}
    assert project["optional-dependencies"].keys() - {"dev", "docs"} == EXTRAS.keys()
    for name, packages in extras.items():
        assert EXTRAS[name][0].split(", ") == [package.partition(">=")[0] for package in packages]


def test_what_is_missing_is_named_with_what_needs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(self: Brotli) -> None:
        raise BitgolfError("the compressor brotli is not installed", hint="pip install brotli")

    monkeypatch.setattr(machine, "_is_installed", lambda module: module != "tiktoken")
    monkeypatch.setattr(Brotli, "self_test", broken)
    monkeypatch.setattr(machine, "free_bytes", lambda folder: 10**9)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    report = describe_machine("cpu")
    rows = {row.name: row for row in (*report.coders, *report.extras)}
    assert not rows["Brotli"].available and rows["Zlib"].available
    assert not rows["tokenizers"].available and rows["parquet"].available
    assert "tokenizer.json and tiktoken files needs: pip install 'bitgolf[tokenizers]'" in report.notes
    assert any("the coder Brotli cannot be used" in note and "pip install brotli" in note for note in report.notes)
    assert any("1,000,000,000 bytes" in note for note in report.notes)
    assert all(note in machine_table(report) for note in report.notes)
    assert report.machine_code_folder == str(tmp_path / "file" / "bitgolf")


@pytest.mark.parametrize(("capability", "tma"), [((8, 0), False), ((9, 0), True)])
def test_a_gpu_and_the_kernels_that_it_can_run(
    capability: tuple[int, int], tma: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = SimpleNamespace(name="Some GPU", total_memory=80 * 10**9, major=capability[0], minor=capability[1])
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_properties": lambda i: gpu,
        "get_device_capability": lambda: capability,
        "is_bf16_supported": lambda including_emulation: True,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    device = Device(torch.device("cpu"), torch.float32, "Some GPU: bfloat16")
    monkeypatch.setattr(machine, "select_device", lambda device_type: device)
    monkeypatch.setattr(machine, "_is_installed", lambda module: module != "flash_attn_interface")
    report = describe_machine()
    kernels = {row.name: row for row in report.kernels}
    assert kernels["MLP with tensor memory accelerator"].available == tma
    assert tma or "needs compute capability 9.0, this is 8.0" in kernels["MLP with tensor memory accelerator"].note
    assert kernels["MLP"].available and kernels["attention: FlashAttention 4"].available
    assert kernels["attention: FlashAttention 3"].note == "flash_attn_interface is not installed"
    assert "Some GPU, 80.0 GB, compute capability" in machine_table(report)
    assert not any("CUDA" in note for note in report.notes)


def test_options_of_a_run_need_a_run() -> None:
    for words in (["--each"], ["--tokens", "128"]):
        done = run_command("doctor", *words)
        assert done.returncode == 2 and "need a run" in done.stderr
    assert run_command("doctor", "--device", "abacus").returncode == 2
