"""Runs a foreign evaluation in a process of its own, with limits of time, memory, network and files."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec

from bitgolf.errors import BitgolfError
from bitgolf.runtime.worker_process import worker_environment
from bitgolf.score.audit.evaluation import ClaimedScore, Ints, TextRead
from bitgolf.score.audit.findings import error
from bitgolf.score.audit.messages import (
    LARGEST_MESSAGE,
    LENGTH_BYTES,
    WorkerAnswer,
    WorkerTask,
    floats,
    framed,
    ints,
    unframed,
)
from bitgolf.score.audit.runner import (
    AuditStopped,
    EvaluationFacts,
    EvaluationRequest,
    EvaluationRun,
    failure_finding,
    timeout_finding,
    validate_claim,
)


class ProcessRunner:
    """Runs an evaluation in one process, and encodes text in another one, so that it cannot pass from there to the runs.

    target: MODULE:CLASS or FILE.py:CLASS, a class or function that creates the evaluation without arguments.
    timeout: seconds of a call. memory: bytes; 0 for no limit. hidden: files and folders that the processes must not see,
    such as the validation text, which a run receives when its warm-up is over.
    missing_limits: for "network", "files" and "memory" the reason why the system does not allow the limit; known after
    the first call.
    """

    def __init__(self, target: str, *, timeout: float, memory: int = 0, hidden: Sequence[Path] = ()) -> None:
        options = json.dumps({"hidden": [str(path.resolve()) for path in hidden], "memory": memory})
        self._runs, self._encoder = (EvaluationProcess(target, options, timeout) for _ in range(2))
        self._decoder = EvaluationProcess(target, options, timeout)
        self.missing_limits: dict[str, str] = {}

    def facts(self) -> EvaluationFacts:
        answer = self._encoder.ask(WorkerTask("facts"))
        self.missing_limits = answer.missing_limits
        return EvaluationFacts(answer.isolated, answer.vocab, answer.bos)

    def encode(self, documents: Sequence[bytes], /) -> list[Ints]:
        return [ints(ids) for ids in self._encoder.ask(WorkerTask("encode", list(documents))).documents]

    def decode(self, documents: Sequence[Ints], /) -> list[bytes]:
        found = self._decoder.ask(WorkerTask("decode", [ids.tobytes() for ids in documents])).documents
        self._decoder.close()
        return found

    def run(self, request: EvaluationRequest, /) -> EvaluationRun:
        build, warm_up, training = (part.tobytes() for part in (request.build, request.warm_up, request.training))
        asked = sorted(request.distribution_targets)
        ready = self._runs.ask(WorkerTask("run", [], build, warm_up, b"", training, request.bytes, asked))
        if not ready.ready:
            raise AuditStopped(error("evaluation-error", "it returned a score before it had the text"))
        answer = self._runs.ask(WorkerTask("score", scoring=request.scoring.tobytes()))
        try:
            handed = {target: floats(own) for target, own in answer.distributions.items()}
            bits = floats(answer.bits)
            claim = ClaimedScore(ints(answer.positions), bits, answer.counted_bytes, answer.side_bits, handed)
            reads = [TextRead(*read) for read in answer.reads]
            return EvaluationRun(validate_claim(claim, len(request.scoring) - 1), reads)
        except (BitgolfError, ValueError) as failure:
            raise AuditStopped(failure_finding(failure)) from failure

    def close(self) -> None:
        """End the processes, and those that they started."""
        for worker in (self._runs, self._encoder, self._decoder):
            worker.close()


class EvaluationProcess:
    """A process that runs `bitgolf.score.audit.worker`. It starts with the first request."""

    def __init__(self, target: str, options: str, timeout: float) -> None:
        self._command = [sys.executable, "-m", "bitgolf.score.audit.worker", target, options]
        self.timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._printed: IO[bytes] | None = None  # what the evaluation prints

    def close(self) -> str:
        """End the process, and those that it started. Returns the last line that it printed."""
        if self._process is None or self._printed is None:
            return ""
        with self._process as process, contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with self._printed as printed:
            printed.seek(max(0, printed.seek(0, os.SEEK_END) - 2000))
            lines = printed.read().decode(errors="replace").strip().splitlines()
        self._process = self._printed = None
        return lines[-1] if lines else ""

    def ask(self, task: WorkerTask) -> WorkerAnswer:
        """Send a request and wait for its answer. Raises `AuditStopped` if there is none, or it is an error."""
        process, ends = self._started(), time.monotonic() + self.timeout
        try:
            answer = unframed(_exchange(process, framed(task), ends), WorkerAnswer)
        except TimeoutError as failure:
            self.close()
            raise AuditStopped(timeout_finding(self.timeout)) from failure
        except (EOFError, BrokenPipeError) as failure:
            status = process.wait()
            last = self.close()
            how = f"by signal {-status}" if status < 0 else f"with status {status}"
            details = f"its process ended {how}{': ' if last else ''}{last:.200}"
            raise AuditStopped(error("evaluation-error", details)) from failure
        except msgspec.DecodeError as failure:
            self.close()
            raise AuditStopped(failure_finding(failure)) from failure
        if answer.error:
            raise AuditStopped(error("evaluation-error", answer.error))
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._printed = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._printed,
                env=worker_environment(),  # or a file of the current folder could be run before the process limits itself
                start_new_session=True,  # a group of its own, so that processes that it starts end with it
            )
            assert self._process.stdin and self._process.stdout
            for pipe in (self._process.stdin, self._process.stdout):
                os.set_blocking(pipe.fileno(), False)
        return self._process


def _exchange(process: subprocess.Popen[bytes], request: bytes, ends: float) -> bytes:
    """Write a request and read the answer's bytes. Raises `TimeoutError` or `EOFError`."""
    assert process.stdin and process.stdout
    source, sink, sent, found = process.stdout.fileno(), process.stdin.fileno(), 0, bytearray()
    while True:
        if len(found) >= LENGTH_BYTES:
            length = int.from_bytes(found[:LENGTH_BYTES], "little")
            if length > LARGEST_MESSAGE:
                raise msgspec.DecodeError(f"an answer of {length:,} bytes")
            if len(found) - LENGTH_BYTES >= length:
                return bytes(found[LENGTH_BYTES : LENGTH_BYTES + length])
        left = ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        readable, writable, _ = select.select([source], [sink] if sent < len(request) else [], [], min(left, 1.0))
        if writable:
            sent += os.write(sink, request[sent : sent + (1 << 16)])
        if readable:
            data = os.read(source, 1 << 20)
            if not data:
                raise EOFError
            found += data
