"""How a failed command ends: errors of the system, interrupts, closed pipes, and defects of the program."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bitgolf.cli.failures import print_error, report_failure
from bitgolf.errors import OS_ERRORS, BitgolfError, Interrupted, UsageError
from bitgolf.files import atomic_write, write_json
from bitgolf.report.failures import describe
from helpers.command_line import run_command
from helpers.toy import toy_recipe

PROGRAM = [sys.executable, "-m", "bitgolf"]


@pytest.mark.parametrize("debug", [False, True])
def test_a_defect_names_the_file_of_its_traceback(debug: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("by nothing\nat all")

    monkeypatch.setattr("bitgolf.commands.artifacts.read_ledger", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = run_command("ledger", "x", *["--debug"] * debug)
    assert done.returncode == 1
    assert "bitgolf: this is a defect of bitgolf (ZeroDivisionError: by nothing)" in done.stderr
    assert ("Traceback" in done.stderr) == debug
    files = list(tmp_path.iterdir())
    assert len(files) == 1 - debug
    for file in files:
        assert str(file) in done.stderr and "ZeroDivisionError: by nothing" in file.read_text()
        assert "Traceback" in file.read_text() and "'ledger', 'x'" in file.read_text()


@pytest.mark.parametrize("number", OS_ERRORS)
def test_an_error_of_the_system_has_a_cause_a_place_and_a_hint(number: int) -> None:
    described = describe(OSError(number, os.strerror(number), "some/file"))
    assert described.where == "some/file" and described.message and described.hint
    assert described.exit_code == (2 if isinstance(described, UsageError) else 1)


def test_an_unknown_error_of_the_system_is_quoted() -> None:
    described = describe(OSError(errno.EXDEV, "Invalid cross-device link"))
    assert "Invalid cross-device link" in described.message and type(described) is BitgolfError


def test_memory_and_names_that_are_not_utf8() -> None:
    assert "memory" in describe(MemoryError()).message
    try:
        "a\udcffb".encode()
    except UnicodeEncodeError as error:
        assert "must be valid UTF-8 here, got b'a\\xffb'" in describe(error).message


def test_a_failed_write_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full") as caught, atomic_write(tmp_path / "result.json"):
        raise OSError(errno.ENOSPC, "disk full")
    assert caught.value.filename == str(tmp_path / "result.json")
    assert not list(tmp_path.iterdir())


def test_an_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "result.json"):
        (tmp_path / "input").read_bytes()
    assert caught.value.filename == str(tmp_path / "input")


@pytest.mark.parametrize(("out", "message"), [("/proc/nope", "no such file or folder"), ("file/run", "is a file")])
def test_a_run_in_a_folder_that_cannot_be_made(
    out: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 16 of the shared cases."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("some words\n" * 50)
    write_json(Path("recipe.json"), toy_recipe(steps=1).to_json())
    done = run_command("run", "recipe.json", "--text", "file", "--out", out)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith(f"bitgolf: {out.partition('/run')[0]}") and message in done.stderr
    assert "hint: " in done.stderr and sorted(os.listdir()) == ["file", "recipe.json"]  # noqa: PTH208


# ---- programs ---------------------------------------------------------------------------------------------------


def run_program(
    *words: str, folder: Path, before: Callable[[], object] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *words], cwd=folder, capture_output=True, text=True, preexec_fn=before, timeout=120
    )


def test_a_reader_that_ends_early_is_no_error(tmp_path: Path) -> None:
    script = f"set -o pipefail; {sys.executable} -m bitgolf recipes --json | true"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_output(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, "recipes"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1 and done.stderr.startswith("bitgolf: standard output: the disk is full\n")


def test_closed_standard_error_does_not_move_the_message(tmp_path: Path) -> None:
    done = run_program("frobnicate", folder=tmp_path, before=lambda: os.close(2))
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.slow
def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"word {i} and word {i * i}\n" for i in range(20_000)))
    write_json(tmp_path / "recipe.json", toy_recipe(steps=1).to_json())

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = run_program("run", "recipe.json", "--text", "text.txt", "--out", "run", folder=tmp_path, before=limit)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "largest size allowed" in done.stderr and "ulimit -f" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.4, 1.5, 4.0])
def test_an_interrupt_at_any_time_is_one_line(seconds: float, tmp_path: Path) -> None:
    """During the imports, the preparation, and the training.

    An interrupt that passes through `exec` of a text, as in imports of torch, makes Python end by the signal itself at
    exit, whatever status is asked for. A shell reports 130 for both.
    """
    (tmp_path / "text.txt").write_text("some words and more\n" * 5000)
    write_json(tmp_path / "recipe.json", toy_recipe(steps=10**6).to_json())
    words = [*PROGRAM, "run", "recipe.json", "--text", "text.txt", "--out", "run"]
    with subprocess.Popen(
        words,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells ignore it in background jobs
    ) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT) and not output and "Traceback" not in errors, errors
    assert errors.count("bitgolf: ") == 1


@pytest.mark.parametrize("message", ["x" * 50_000, "word " * 10_000], ids=["word", "words"])
def test_a_line_of_an_error_has_a_limit(capsys: pytest.CaptureFixture[str], message: str) -> None:
    print_error(BitgolfError(message, hint="shorter"))
    said = capsys.readouterr().err
    assert len(said) < 1200 and said.startswith("bitgolf:") and "…" in said and said.endswith("hint: shorter\n")


def test_a_second_interrupt_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """The program is ending after the first one; its traceback would follow the message."""
    before = signal.getsignal(signal.SIGINT)
    try:
        assert report_failure(Interrupted("interrupted")) == 130
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "bitgolf: interrupted\n"
