"""A foreign evaluation in a process of its own: the same audit, and what it cannot do there."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.score.audit.audit import AuditReport, audit_evaluation
from bitgolf.score.audit.budget import AuditBudget
from bitgolf.score.audit.messages import WorkerAnswer, WorkerTask, framed, unframed
from bitgolf.score.audit.process_runner import ProcessRunner
from bitgolf.score.audit.runner import EvaluationRequest
from helpers.examples import examples

FEW = AuditBudget(confidence=0.5, share=0.5)
DOCUMENTS = [b"a man a plan", b"a canal panama", b"able was i", b"ere i saw elba"]
HEAD = """
import os, socket, sys, time
import numpy as np
from bitgolf.score.audit.evaluation import ClaimedScore

class Bytes:
    vocab, bos, shown = 257, 256, {}
    def encode(self, data):
        return np.frombuffer(data, np.uint8).astype(np.int64)
    def decode(self, ids):
        return np.asarray(ids).astype(np.uint8).tobytes()

class Uniform:
    tokenizer, isolated = Bytes(), False
    def build(self, view): print("build")
    def warm_up(self, view): pass
    def evaluate(self, view):
        rows = {t: np.full(257, np.log2(257)) for t in view.distribution_targets}
        return ClaimedScore(np.arange(view.targets), np.full(view.targets, np.log2(257)), view.bytes, 0.0, rows)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "val.txt").write_bytes(b"secret")
    (tmp_path / "alone.txt").write_bytes(b"secret")
    yield tmp_path


def started(folder: Path, code: str, timeout: float = 60, memory: int = 0) -> ProcessRunner:
    (folder / "entry.py").write_text(HEAD + code)
    hidden = [folder / "text", folder / "alone.txt"]
    return ProcessRunner(f"{folder / 'entry.py'}:Uniform", timeout=timeout, memory=memory, hidden=hidden)


def audited(runner: ProcessRunner) -> AuditReport:
    return audit_evaluation(runner, DOCUMENTS, DOCUMENTS, budget=FEW)


def test_the_audit_is_that_of_this_process(folder: Path) -> None:
    found = audited(started(folder, ""))
    namespace: dict[str, object] = {}
    exec(HEAD, namespace)
    assert found == audit_evaluation(namespace["Uniform"], DOCUMENTS, DOCUMENTS, budget=FEW)  # type: ignore[arg-type]
    assert found.verdict == "passes" and found.claimed == pytest.approx(8.64, abs=0.01)


LIMITED = """
class Uniform(Uniform):
    def build(self, view):
        here = os.path.dirname(__file__)
        assert os.listdir(here + "/text") == [] and open(here + "/alone.txt").read() == "", "files"
        import ctypes
        ctypes.CDLL(None).umount((here + "/text").encode())
        assert os.listdir(here + "/text") == [], "unmounted"
    def warm_up(self, view):
        try:
            socket.create_connection(("127.0.0.1", int(open(os.path.dirname(__file__) + "/port").read())), 2)
        except OSError:
            return
        raise AssertionError("network")
"""


def test_there_is_no_network_and_no_text_or_a_reason(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        (folder / "port").write_text(str(server.getsockname()[1]))
        runner = started(folder, LIMITED)
        found = audited(runner)
    missing = runner.missing_limits
    assert missing.pop("memory") == "no limit was asked for"
    assert found.verdict == ("evaluation-error" if missing else "passes"), found
    assert all(len(reason) > 10 for reason in missing.values())
    assert (folder / "text" / "val.txt").read_bytes() == b"secret", "hidden from the process only"


def test_no_file_of_the_current_folder_runs_before_the_limits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "ctypes.py").write_text("open('executed', 'w')")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (folder / "entry.py").write_text(HEAD)
    runner = ProcessRunner("nowhere:Uniform", timeout=60)
    assert "nowhere" in audited(runner).findings[0].message
    assert not (folder / "executed").exists()


BAD = {
    "exits": ("os._exit(3)", "evaluation-error", "its process ended with status 3"),
    "crashes": ("os.kill(os.getpid(), 11)", "evaluation-error", "by signal 11"),
    "raises": ("raise SystemExit('enough')", "evaluation-error", "SystemExit: enough"),
    "too large": ("bytearray(3 << 30)", "evaluation-error", "MemoryError"),
    "no array": ("return 'good'", "evaluation-error", "AttributeError"),
    "hangs": ("time.sleep(60)", "timeout", "2 s"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_ends_the_process_does_not_end_the_audit(name: str, folder: Path) -> None:
    statement, rule, words = BAD[name]
    code = f"class Uniform(Uniform):\n    def evaluate(self, view):\n        {statement}\n"
    runner = started(folder, code, timeout=2 if name == "hangs" else 60, memory=1 << 30)
    began = time.monotonic()
    found = audited(runner)
    assert found.verdict == rule and words in found.findings[0].message, found.findings
    assert runner._runs._process is None and time.monotonic() - began < 30  # pyright: ignore[reportPrivateUsage]


def test_processes_that_it_started_end_with_it(folder: Path) -> None:
    code = """
class Uniform(Uniform):
    def build(self, view):
        if (child := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
        open(os.path.dirname(__file__) + "/child", "w").write(str(child))
"""
    runner = started(folder, code)
    audited(runner)
    child = int((folder / "child").read_text())
    for _ in range(50):
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("the child is still there")


@pytest.mark.parametrize(
    ("code", "words"),
    [("Uniform = 3", "TypeError"), ("raise OSError('no GPU')", "no GPU"), ("del Uniform", "AttributeError")],
)
def test_what_cannot_be_loaded_is_a_finding(code: str, words: str, folder: Path) -> None:
    found = audited(started(folder, code))
    assert found.verdict == "evaluation-error" and words in found.findings[0].message and found.runs == 0


def test_a_tokenizer_that_remembers_decodes_in_another_process(folder: Path) -> None:
    code = """
class Remembers(Bytes):
    shown = []
    def encode(self, data):
        self.shown.append(data)
        return np.array([len(self.shown) // 250, len(self.shown) % 250])
    def decode(self, ids):
        return self.shown[int(ids[0]) * 250 + int(ids[1]) - 1]
class Uniform(Uniform):
    tokenizer = Remembers()
"""
    found = audited(started(folder, code))
    assert found.verdict == "evaluation-error" and "IndexError" in found.findings[0].message


def test_text_does_not_pass_from_the_tokenizer_to_the_runs(folder: Path) -> None:
    code = """
class Passes(Bytes):
    def encode(self, data):
        self.shown[data] = True
        return super().encode(data)
class Uniform(Uniform):
    tokenizer = Passes()
    def evaluate(self, view):
        claim = super().evaluate(view)
        return claim._replace(bits=claim.bits / 8) if self.tokenizer.shown else claim
"""
    found = audited(started(folder, code))
    assert found.verdict == "passes" and found.claimed > 8


def test_the_text_arrives_after_the_warm_up(folder: Path) -> None:
    code = f"""
class Uniform(Uniform):
    def warm_up(self, view):
        text = np.frombuffer({DOCUMENTS[1]!r}, np.uint8).astype(np.int64).tobytes()
        with open("/proc/self/mem", "rb", 0) as memory:
            for line in open("/proc/self/maps"):
                span, mode, *rest = line.split()
                if mode.startswith("rw") and rest[-1] not in ("[vvar]", "[vsyscall]"):
                    start, stop = (int(end, 16) for end in span.split("-"))
                    memory.seek(start)
                    assert memory.read(stop - start).count(text) <= 1, "the text is here"  # its own copy
"""
    (folder / "entry.py").write_text(HEAD + code)
    runner = ProcessRunner(f"{folder / 'entry.py'}:Uniform", timeout=60)
    text = np.frombuffer(b"".join(DOCUMENTS), np.uint8).astype(np.int64)
    other = np.zeros(40, np.int64)
    found = runner.run(EvaluationRequest(other, other, text, other, 9))
    runner.close()
    assert len(found.claim.bits) == len(text) - 1


@settings(max_examples=examples(100), deadline=None)
@given(st.binary(max_size=200))
def test_malformed_messages_are_one_kind_of_error(data: bytes) -> None:
    kinds: list[Any] = [WorkerTask, WorkerAnswer]
    for kind in kinds:
        try:
            message = unframed(data, kind)
        except msgspec.DecodeError:
            continue
        assert isinstance(message, kind)


def test_messages_come_back() -> None:
    task = WorkerTask("run", [b"a"], b"b", b"c", b"d", b"e", 5, [1, 2])
    answer = WorkerAnswer(bits=b"x", distributions={3: b"y"}, reads=[("build", 0, 1)], side_bits=0.5)
    assert unframed(framed(task)[8:], WorkerTask) == task
    assert unframed(framed(answer)[8:], WorkerAnswer) == answer
    assert os.environ.get("PATH")
