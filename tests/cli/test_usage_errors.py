"""Errors of the command line's parser, in one style, and the help at 80 columns."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from helpers.command_line import run_command

ERRORS = [
    ("show", "the argument RECIPE is missing", "usage: bitgolf show [OPTIONS] RECIPE"),
    ("decompress a", "the argument IN is missing", "usage: bitgolf decompress [OPTIONS] ARTIFACT IN OUT"),
    ("data make x", "the option --text is missing", "`bitgolf data make --help` lists"),
    ("show a b c", "unexpected argument: b c", "usage: bitgolf show [OPTIONS] RECIPE"),
    ("show quickstart model.act=relu", "unexpected argument: model.act=relu", "write --set model.act=relu"),
    ("show quickstart --sett x=1", "there is no option --sett", "did you mean --set?"),
    ("--verson", "there is no option --verson", "did you mean --version or --verbose?"),
    ("run quickstart --quite", "there is no option --quite", "did you mean --quiet"),
    ("run quickstart --bogus=3", "there is no option --bogus", "`bitgolf run --help` lists"),
    ("run quickstart -device cpu", "there is no option -d", "did you mean --device?"),
    ("run quickstart -device=cpu", "there is no option -d", "did you mean --device?"),
    ("show quickstart --add", "--add needs a value", "`bitgolf show --help` lists"),
    ("show quickstart --json=1", "--json takes no value", "`bitgolf show --help` lists"),
    ("run quickstart --seed x", "--seed: must be a whole number, got x", "`bitgolf run --help` lists"),
    ("run quickstart --seed=-1", "--seed: must be at least 0, got -1", "`bitgolf run --help` lists"),
    ("run quickstart --devices 2000", "--devices: must be at most 1024, got 2000", "`bitgolf run --help` lists"),
    ("run quickstart --seed 9223372036854775808", "--seed: must be at most 9,223,372,036,854,775,807, got", ""),
    ("pack x --cap 16MB", "--cap: must be a whole number, got 16MB", "write 16000000"),
    ("generate x --temperature hot", "--temperature: must be a number, got hot", "`bitgolf generate --help` lists"),
    ("data make x --text y --held-out 2", "--held-out: must be at most 0.9, got 2", "`bitgolf data make --help` lists"),
    ("shw quickstart", "there is no command 'shw'", "did you mean show?"),
    ("data mak", "there is no command 'mak'", "did you mean make?"),
    ("data frobnicate", "there is no command 'frobnicate'", "commands: make, check, fetch"),
]


@pytest.mark.parametrize(("words", "message", "hint"), ERRORS, ids=[words for words, _, _ in ERRORS])
def test_an_error_of_the_parser_has_a_message_and_a_hint(words: str, message: str, hint: str) -> None:
    done = run_command(*words.split())
    assert done.returncode == 2 and not done.stdout
    first, *rest = done.stderr.splitlines()
    assert first.startswith(f"bitgolf: {message}")
    assert not hint or rest[0].startswith(f"  hint: {hint}")


@pytest.mark.parametrize("command", ["", "run", "data make", "pack", "diff"])
def test_help_fits_80_columns_without_types_of_python(command: str) -> None:
    environment = {**os.environ, "COLUMNS": "80", "TERMINAL_WIDTH": "80"}
    words = [sys.executable, "-m", "bitgolf", *command.split(), "--help"]
    text = subprocess.run(words, capture_output=True, text=True, env=environment, check=True).stdout
    assert max(map(len, text.splitlines())) <= 80 and "9223372036854775807" not in text
    options = text[text.index("Options") :]
    assert not re.search(r"<(int|str|list|path)", options)
    if command == "pack":  # the lines of a docstring are joined
        assert "at most 0.05 % below it unless its size changes in larger jumps" in " ".join(text.split())
        assert not any(line.rstrip().endswith("or the steps") for line in text.splitlines())
