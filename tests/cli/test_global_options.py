"""--quiet, --verbose, --width and --debug may stand anywhere; other words are left as they are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from bitgolf.cli.global_options import GlobalOptions, split_global_options
from bitgolf.cli.main import run_command_line
from bitgolf.errors import UsageError
from helpers.command_line import run_command

VALUES = {"--prompt", "--set"}


@pytest.mark.parametrize(
    ("given", "options", "others"),
    [
        ("-q run quickstart", GlobalOptions(quiet=True), "run quickstart"),
        ("run --verbose quickstart", GlobalOptions(verbose=True), "run quickstart"),
        ("run quickstart --debug --width 100", GlobalOptions(debug=True, width=100), "run quickstart"),
        ("run --width=40 -v", GlobalOptions(verbose=True, width=40), "run"),
        ("generate a.bg --prompt -q", GlobalOptions(), "generate a.bg --prompt -q"),
        ("generate a.bg --prompt=-q -q", GlobalOptions(quiet=True), "generate a.bg --prompt=-q"),
        ("generate -- -q --debug", GlobalOptions(), "generate -- -q --debug"),
        ("run --set", GlobalOptions(), "run --set"),
        ("", GlobalOptions(), ""),
    ],
)
def test_options_may_stand_anywhere(given: str, options: GlobalOptions, others: str) -> None:
    assert split_global_options(given.split(), VALUES) == (options, others.split())


@pytest.mark.parametrize(
    "words", ["--width", "--width wide", "--width 39", "--width -5", "--width 99999999999", "-q -v"]
)
def test_wrong_options_are_refused(words: str) -> None:
    with pytest.raises(UsageError) as caught:
        split_global_options(words.split(), VALUES)
    assert caught.value.hint and (caught.value.where == "--width" or "exclude each other" in caught.value.message)
    done = run_command("recipes", *words.split())
    assert done.returncode == 2 and done.stderr.startswith("bitgolf: ") and not done.stdout


@pytest.mark.parametrize(
    "words", [("--help",), ("run", "--help"), ("data", "make", "--help"), ("recipes",), ("data", "fetch", "--list")]
)
@pytest.mark.parametrize("width", [80, 120])
def test_help_and_lists_fit_the_width(words: tuple[str, ...], width: int) -> None:
    done = run_command(*words, "--width", str(width))
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert 60 < max(map(len, lines)) <= width
    assert max(len(line) for line in run_command(*words, "--width", "60").stdout.splitlines()) <= 60


def test_an_option_of_a_command_keeps_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that looks like an option of the program. Which options take a value is read from the commands."""
    from bitgolf.commands import artifacts

    prompts = list[str]()
    monkeypatch.setattr(artifacts, "stream_text", lambda artifact, prompt, **others: prompts.append(prompt) or ["text"])
    done = run_command("generate", "a.bg", "--prompt", "-q", "--seed", "3", "-v")
    assert (done.returncode, done.stdout, prompts) == (0, "text\n", ["-q"])


def test_quiet_shows_only_the_result_or_the_error() -> None:
    words = ("show", "quickstart", "--set", "train.seed=0", "--json")
    wrong = run_command(*words, "-q")
    assert wrong.returncode == 2 and wrong.stderr.startswith("bitgolf: ")
    unchanged = ("diff", "baseline", "baseline", "--json")
    assert run_command(*unchanged, "-q").stderr == ""
    shown = run_command("show", "quickstart", "--set", "model.layers=4", "--set", "model.layers=4", "--json")
    quiet = run_command("show", "quickstart", "--set", "model.layers=4", "--set", "model.layers=4", "--json", "-q")
    assert (
        "changes nothing" in shown.stderr
        and quiet.stderr == ""
        and json.loads(quiet.stdout) == json.loads(shown.stdout)
    )


def test_an_error_is_broken_at_words() -> None:
    done = run_command("show", "no-such-recipe-of-ours", "--width", "60")
    lines = done.stderr.splitlines()
    assert lines[0].startswith("bitgolf: there is no recipe") and len(lines) > 3
    assert all(len(line) <= 60 for line in lines) and all(line.startswith("  ") for line in lines[1:])


def test_the_width_ends_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "77")
    run_command("recipes", "--width", "90")
    assert os.environ["COLUMNS"] == "77"


def test_text_is_written_while_it_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also to a pipe, where Python would keep it."""
    from bitgolf.commands import artifacts

    read, write = os.pipe()
    os.set_blocking(read, False)
    found = list[bytes]()

    def sampled(artifact: object, prompt: str, **settings: object) -> Iterator[str]:
        for piece in (prompt, "one ", "two"):
            yield piece
            found.append(os.read(read, 100))

    monkeypatch.setattr(artifacts, "stream_text", sampled)
    with os.fdopen(write, "w") as output:
        monkeypatch.setattr("sys.stdout", output)
        assert run_command_line(["generate", "a.bg", "--prompt", "zero "]) == 0
    assert [*found, os.read(read, 100)] == [b"zero ", b"one ", b"two", b"\n"]
    os.close(read)
