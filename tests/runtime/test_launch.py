"""Tests of jobs for worker processes: encoding of jobs and results, and errors."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from bitgolf.config.spec import part
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.pipeline.coding import CodingJob, compress_file, decompress_file, decompress_in_worker
from bitgolf.pipeline.scoring import ScoringJob, score_worker
from bitgolf.report.failures import describe
from bitgolf.report.observers import StopRequest
from bitgolf.runtime import launch, worker
from bitgolf.runtime.job_files import read_error, read_job, read_result, write_job, write_result
from bitgolf.runtime.launch import run_worker
from bitgolf.score.document_order import ShuffledOrder
from bitgolf.score.methods import SlidingScoring
from bitgolf.score.result import DecompressResult
from bitgolf.score.text import TokenizedText


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Including paths, recipes and arrays; an array is stored in a separate file."""
    text = TokenizedText(np.arange(9), 40, bos=2)
    methods = (part(SlidingScoring, window=32, stride=8),)
    job = ScoringJob(artifact=Path("a.bg"), text=text, methods=methods, order=part(ShuffledOrder, seed=3), limit=0.5)
    write_job(tmp_path, score_worker, job)
    function, found = read_job(tmp_path)
    assert function is score_worker and isinstance(found, ScoringJob)
    assert (found.artifact, found.methods, found.order, found.limit) == (job.artifact, methods, job.order, 0.5)
    assert (found.text.tokens == text.tokens).all() and found.text[1:] == (40, 2)
    assert found.text.tokens.dtype == np.int64 and {p.suffix for p in tmp_path.iterdir()} == {".json", ".npy"}


def test_a_result_has_the_type_that_the_function_says(tmp_path: Path) -> None:
    result = DecompressResult(bytes_in=3, bytes_out=9, documents=[4, 5], seconds=float("inf"))
    write_result(tmp_path, result)
    assert read_result(tmp_path, decompress_file) == result


@pytest.mark.parametrize("name", ["os:system", "bitgolf.files:json.dumps", "bitgolf.files:nothing", "bitgolf:files"])
def test_a_worker_calls_functions_of_this_package_only(tmp_path: Path, name: str) -> None:
    (tmp_path / "job.json").write_text(json.dumps({"function": name, "job": "true"}))
    with pytest.raises(TypeError, match="is not a function of this package"):
        read_job(tmp_path)
    with pytest.raises(TypeError):
        write_job(tmp_path, lambda job: job, None)


def test_an_error_of_the_job_comes_back_as_it_was(tmp_path: Path) -> None:
    write_job(tmp_path, compress_file, CodingJob(tmp_path / "a.bg", tmp_path / "none.txt", tmp_path / "b.bgz"))
    assert worker.main(tmp_path) == 2
    error = read_error(tmp_path)
    assert error and error.exit_code == UsageError.exit_code and error.where == str(tmp_path / "none.txt")


@pytest.mark.parametrize("raised", [ZeroDivisionError("of nothing"), OSError(28, "full", "some/file"), MemoryError()])
def test_any_exception_of_a_job_comes_back_as_one_message(
    raised: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(folder: Path) -> None:
        raise raised

    monkeypatch.setattr(worker, "read_job", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert worker.main(tmp_path) == 1 and capfd.readouterr() == ("", "")
    error = read_error(tmp_path)
    assert error and error.message == describe(raised).message
    assert error.where == ("some/file" if isinstance(raised, OSError) else "")


@pytest.mark.slow
def test_a_process_of_its_own_does_the_job(tmp_path: Path) -> None:
    (tmp_path / "in.bgz").write_bytes(b"none")
    (tmp_path / "a.bg").write_bytes(b"no artifact")
    with pytest.raises(BitgolfError, match="artifact") as caught:
        decompress_in_worker(CodingJob(tmp_path / "a.bg", tmp_path / "in.bgz", tmp_path / "out"))
    assert not isinstance(caught.value.__cause__, TypeError) and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_file_in_the_current_folder_is_not_taken_for_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """The program `bitgolf` does not search the current folder, and neither do its workers."""
    for name in ("brotli", "sentencepiece", "constriction"):
        (tmp_path / f"{name}.py").write_text("from pathlib import Path; Path('executed').touch()")
    monkeypatch.chdir(tmp_path)
    job = CodingJob(tmp_path / "a.bg", tmp_path / "none.bgz", tmp_path / "out")
    with pytest.raises(BitgolfError, match="cannot read it"):
        run_worker(decompress_file, job, task="decompression", where=job.source, processes=processes)
    assert not (tmp_path / "executed").exists()


def test_a_request_to_stop_ends_the_process(tmp_path: Path) -> None:
    """Also one that was made before the process began."""
    stop = StopRequest()
    timer = threading.Timer(0.2, stop.request, ["why"])
    timer.start()
    command = [sys.executable, "-c", "import time; print('started', flush=True); time.sleep(60)"]
    for _ in range(2):
        assert launch._run(command, stop).status == -signal.SIGTERM
    timer.join()
