"""`bitgolf audit`: artifacts by their methods, foreign evaluations, the documented example, and wrong usage."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bitgolf.commands.audit import AuditTexts, audit_target, is_foreign, read_texts
from bitgolf.errors import UsageError
from bitgolf.score.audit.budget import AuditBudget
from helpers.command_line import run_command
from helpers.toy_artifact import ToyArtifact, make_toy

PAGE = Path(__file__).parents[2] / "docs" / "auditing.md"
SHALLOW = ["--confidence", "0.5", "--share", "0.5"]
ENTRY = """
import numpy as np
from bitgolf.score.audit.evaluation import ClaimedScore

class Bytes:
    vocab, bos = 257, 256
    def encode(self, data): return np.frombuffer(data, np.uint8).astype(np.int64)
    def decode(self, ids): return np.asarray(ids).astype(np.uint8).tobytes()

class Peeks:
    tokenizer, isolated = Bytes(), False
    def build(self, view): pass
    def warm_up(self, view): pass
    def evaluate(self, view):
        later = np.append(view.tokens()[2:], 0)
        return ClaimedScore(np.arange(view.targets), 8 - 0.001 * later, view.bytes)
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyArtifact:
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "peeks.py").write_text(ENTRY)
    (tmp_path / "text").mkdir()
    for i in range(6):
        (tmp_path / "text" / f"{i}.txt").write_text(f"document {i} of six documents")
    return tmp_path / "peeks.py"


def test_an_artifact_passes_by_each_of_its_methods(toy: ToyArtifact) -> None:
    words = ["audit", str(toy.artifact), "--text", str(toy.raw), "--bytes", "300", *SHALLOW]
    done = run_command(*words, "--with", "sliding", "--with", "contiguous", "--set", "window=16", "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["passes"] and [audit["name"] for audit in result["audits"]] == ["sliding", "contiguous"]
    for audit in result["audits"]:
        assert audit["verdict"] == "passes" and audit["findings"] == [] and audit["missing_limits"] is None
        assert audit["bpb"] > 1 and audit["runs"] > 10
        assert {check["check"] for check in audit["checks"]} >= {"causality", "sums", "stored text"}


def test_a_cheat_is_a_verdict_and_a_status(entry: Path) -> None:
    words = ["audit", "peeks:Peeks", "--text", str(entry.parent / "text"), "--bytes", "80", *SHALLOW]
    done = run_command(*words, "--width", "80")
    assert done.returncode == 1 and "peeks:Peeks: lookahead" in done.stdout
    assert "error: lookahead: bits depend on the next few tokens" in done.stdout.replace("\n", " ").replace("  ", " ")
    assert re.search(r"268 runs of [\d.e-]+ s, about \d+ ", done.stderr) and "1 in 1 runs" in done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    found = json.loads(run_command(*words, "--json").stdout)["audits"][0]
    assert found["verdict"] == "lookahead" and set(found["missing_limits"]) <= {"network", "files", "memory"}


@pytest.mark.slow
def test_the_example_of_the_page_is_audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGE.read_text()
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        (tmp_path / block.splitlines()[0].removeprefix("# ")).write_text(block)
    (tmp_path / "PATH").mkdir()
    for i in range(16):
        words = [f"word{(7 * i + j * j) % 97}" for j in range(60)]
        (tmp_path / "PATH" / f"{i:02d}.txt").write_text(" ".join(words))
    monkeypatch.chdir(tmp_path)
    script, audit = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)[0].splitlines()
    done = subprocess.run([sys.executable, *script.split()[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and float(done.stdout.split()[0]) < 6, done.stderr
    words = [*audit.split()[1:], "--confidence", "0.8", "--share", "0.3", "--json"]
    result = json.loads(run_command(*words).stdout)["audits"][0]
    assert result["verdict"] == "passes", result
    peeking = (tmp_path / "entry.py").read_text().replace("bits[start:stop] =", "bits[start : stop - 1] =")
    (tmp_path / "entry.py").write_text(
        peeking.replace(
            "np.arange(stop - start), tokens[start + 1 : stop + 1]",
            "np.arange(stop - start - 1), tokens[start + 2 : stop + 1]",
        )
    )
    assert json.loads(run_command(*words).stdout)["audits"][0]["verdict"] != "passes"


USAGE = {
    "no text": (["peeks:Peeks"], "--text"),
    "no class": (["peeks:"], "name a class"),
    "no file": (["nowhere.py:Peeks", "--text", "text"], "no such file"),
    "a method": (["peeks:Peeks", "--text", "text", "--with", "sliding"], "has no effect"),
    "confidence": (["peeks:Peeks", "--text", "text", "--confidence", "1"], "must be above 0 and below 1"),
    "not a number": (["peeks:Peeks", "--text", "text", "--share", "nan"], "must be above 0 and below 1"),
    "no time": (["peeks:Peeks", "--text", "text", "--timeout", "0"], "--timeout"),
    "too few": (["peeks:Peeks", "--text", "text", "--bytes", "0"], "an audit needs 3 and 1"),
    "hidden code": (["peeks.py:Peeks", "--text", "."], "which is hidden"),
    "no artifact": (["peeks:Peeks", "--text", "text", "--artifact", "nowhere"], "no such file"),
}


@pytest.mark.parametrize("name", USAGE)
def test_wrong_usage_is_one_message(name: str, entry: Path) -> None:
    words, message = USAGE[name]
    done = run_command("audit", *words)
    assert done.returncode == 2 and message in done.stderr.replace("\n", " "), done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_an_artifact_and_what_is_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:name").write_text("")
    assert not is_foreign("odd:name") and not is_foreign("runs/one") and is_foreign("module.inner:Class")


def test_texts_are_whole_documents_and_training_follows(entry: Path) -> None:
    documents, training = read_texts(AuditTexts([entry.parent / "text"], bytes=60))
    assert len(documents) == 3 and len(training) == 3 and b"document 3" in training[0]
    documents, training = read_texts(AuditTexts([entry.parent / "text"], [entry.parent / "text"], bytes=0))
    assert len(documents) == len(training) == 6


def test_options_are_checked_before_anything_runs(entry: Path) -> None:
    with pytest.raises(UsageError, match="from 0 to 1 bit"):
        audit_target("peeks:Peeks", AuditTexts([Path("text")]), AuditBudget(shape_tolerance=float("nan")))
