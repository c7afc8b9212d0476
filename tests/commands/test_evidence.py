"""`bitgolf bundle` and `bitgolf verify`: what is checked, and each lie that is found."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bitgolf.commands import artifacts, evidence
from bitgolf.commands.artifacts import SourceText, prove_score
from bitgolf.evidence.collect import collect_parts
from bitgolf.evidence.container import read_bundle, write_bundle
from helpers.command_line import run_command
from helpers.toy_run import finish


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def proof(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("proof")
    prove_score(run, folder, SourceText(shards=run.parent / "data"), max_bytes=2000, sample_groups=1)
    return folder


@pytest.fixture(scope="module")
def parts(run: Path, proof: Path) -> dict[str, bytes]:
    return collect_parts(run, proof, None)


@pytest.fixture(autouse=True)
def groups_are_restored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that was restored before from the same artifact is not decoded again: that takes seconds."""

    def restore(artifact: Path, source: Path, target: Path) -> list[int]:
        key = (artifact.read_bytes(), source.read_bytes())
        if key not in RESTORED:
            lengths = artifacts.restore(artifact, source, target)
            RESTORED[key] = lengths, target.read_bytes()
        lengths, text = RESTORED[key]
        target.write_bytes(text)
        return lengths

    monkeypatch.setattr(evidence, "restore", restore)


RESTORED: dict[tuple[bytes, bytes], tuple[list[int], bytes]] = {}
"""Artifact and compressed file -> lengths of documents, and text."""


def verify(parts: dict[str, bytes], folder: Path, *words: str) -> dict[str, Any]:
    (folder / "x.zip").write_bytes(write_bundle(parts))
    result = run_command("verify", str(folder / "x.zip"), "--json", *words)
    document = json.loads(result.stdout)
    assert result.returncode == (0 if document["passes"] else 1), result.stderr
    return document


def states(document: dict[str, Any]) -> dict[str, str]:
    return {fact["name"]: fact["state"] for fact in document["facts"]}


def test_a_bundle_is_written_and_verified(run: Path, proof: Path, tmp_path: Path) -> None:
    target = tmp_path / "evidence.zip"
    made = run_command("bundle", str(run), str(target), "--proof", str(proof))
    assert made.returncode == 0, made.stderr
    assert run_command("bundle", str(run), str(target)).returncode == 2
    assert run_command("bundle", str(run), str(target), "--force").returncode == 0
    run_command("bundle", str(run), str(target), "--proof", str(proof), "--force")
    result = run_command("verify", str(target))
    assert result.returncode == 0 and "only claimed, 0 failed; not signed" in result.stdout
    found = states(json.loads(run_command("verify", str(target), "--json").stdout))
    checked = {name for name, state in found.items() if state == "checked"}
    assert {
        "recipe",
        "artifact",
        "byte cap",
        "code",
        "tokenizer",
        "log",
        "proof: commitment",
        "proof: restored groups",
    } <= checked
    assert found["training clock"] == "claimed"


def test_no_path_of_the_machine_is_in_it(parts: dict[str, bytes], run: Path) -> None:
    for name in ("inputs.json", "result.json", "data.json", "recipe.json"):
        assert str(run.parent).encode() not in parts[name], name


def test_without_a_proof_the_score_is_claimed(run: Path, tmp_path: Path) -> None:
    assert states(verify(collect_parts(run, None, None), tmp_path))["proof by compression"] == "claimed"


def change(parts: dict[str, bytes], name: str, path: str, value: Any) -> dict[str, bytes]:
    """Return the parts with one value of a JSON part replaced."""
    document = json.loads(parts[name])
    *keys, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    inner = document
    for key in keys:
        inner = inner[key]
    inner[last] = value(inner[last]) if callable(value) else value
    return parts | {name: json.dumps(document).encode()}


LIES = [
    ("recipe", "result.json", "hash", "abc"),
    ("recipe", "recipe.json", "args.train.args.steps", 99),
    ("artifact", "result.json", "bytes.model", lambda size: size - 1),
    ("byte cap", "result.json", "bytes.cap", 10),
    ("byte cap", "result.json", "bytes.total", lambda size: size - 1),
    ("byte cap", "result.json", "bytes.counted", "model+code"),
    ("score contiguous: arithmetic", "result.json", "methods.0.bpb", lambda bpb: bpb - 0.01),
    ("training clock: sum and limit", "result.json", "training_clock.total", lambda total: total + 1),
    (
        "what each switch touched",
        "result.json",
        "part_usage.0",
        {"part": "X", "tensors": 0, "parameters": 0, "calls": 0},
    ),
    ("tokenizer", "data.json", "tokenizer", "0" * 16),
    ("counts of the held-out text", "result.json", "held_out.bytes", 1),
    ("log", "result.json", "steps", 0),
    ("proof by compression", "proof/commitment.json", "artifact_sha256", "0" * 64),
    ("proof: commitment", "proof/commitment.json", "bits", lambda bits: bits * 0.9),
    ("proof: commitment", "proof/commitment.json", "groups.0.sha256", "0" * 64),
    ("proof: restored groups", "proof/commitment.json", "groups.0.text_sha256", "0" * 64),
]


@pytest.mark.parametrize(("fact", "name", "path", "value"), LIES, ids=[f"{name}:{path}" for _, name, path, _ in LIES])
def test_a_lie_is_found(parts: dict[str, bytes], tmp_path: Path, fact: str, name: str, path: str, value: Any) -> None:
    if path == "args.train.args.steps" and "args" not in json.loads(parts[name]):
        path = "train.steps"
    found = states(verify(change(parts, name, path, value), tmp_path, "--groups", "0"))
    assert {fact for fact, state in found.items() if state == "failed"} == {fact}


def test_a_damaged_artifact_is_found(parts: dict[str, bytes], tmp_path: Path) -> None:
    damaged = bytearray(parts["artifact.bg"])
    damaged[-1] ^= 1
    assert states(verify(parts | {"artifact.bg": bytes(damaged)}, tmp_path))["artifact"] == "failed"


def test_a_changed_byte_is_an_error(parts: dict[str, bytes], tmp_path: Path) -> None:
    data = bytearray(write_bundle(parts))
    data[len(data) // 2] ^= 1
    (tmp_path / "x.zip").write_bytes(data)
    result = run_command("verify", str(tmp_path / "x.zip"))
    assert result.returncode == 1 and ("has changed" in result.stderr or "damaged" in result.stderr)


@pytest.mark.parametrize("name", ["result.json", "data.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff"])
def test_a_part_of_another_kind_is_named(parts: dict[str, bytes], tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(write_bundle(parts | {name: content}))
    result = run_command("verify", str(tmp_path / "x.zip"))
    assert result.returncode == 1 and name in result.stderr and "defect" not in result.stderr


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_signatures(parts: dict[str, bytes], run: Path, tmp_path: Path) -> None:
    key, other = tmp_path / "key", tmp_path / "other"
    for path in (key, other):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a@b", "-f", path], check=True)
    target = tmp_path / "x.zip"
    assert run_command("bundle", str(run), str(target), "--sign", str(key)).returncode == 0
    fingerprint = subprocess.run(["ssh-keygen", "-lf", key], capture_output=True, text=True, check=True).stdout.split()[
        1
    ]
    assert f"signed by ED25519 key {fingerprint}" in run_command("verify", str(target)).stdout
    signers = tmp_path / "signers"
    for path, status in ((key, 0), (other, 1)):
        signers.write_text(f"me {path.with_suffix('.pub').read_text()}")
        result = run_command("verify", str(target), "--signers", str(signers), "--identity", "me")
        assert result.returncode == status, result.stderr
    target.write_bytes(write_bundle(read_bundle(target) | {"more": b"1"}))
    assert run_command("verify", str(target)).returncode == 1
    Path(f"{target}.sig").unlink()
    wrong = run_command("verify", str(target), "--signers", str(signers), "--identity", "me")
    assert wrong.returncode == 2 and "no signature" in wrong.stderr
    assert run_command("verify", str(target), "--signers", str(signers)).returncode == 2
    assert run_command("bundle", str(run), str(target), "--force", "--sign", str(tmp_path / "none")).returncode == 2


def test_an_unfinished_run_has_no_bundle(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "half")
    (tmp_path / "half" / "score.json").unlink()
    result = run_command("bundle", str(tmp_path / "half"), str(tmp_path / "x.zip"))
    assert result.returncode == 2 and "not finished" in result.stderr and not (tmp_path / "x.zip").exists()
    result = run_command("bundle", str(run), str(tmp_path / "x.zip"), "--proof", str(tmp_path))
    assert result.returncode == 2 and "no proof" in result.stderr
