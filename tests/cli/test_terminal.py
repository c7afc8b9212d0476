"""Whole commands on a terminal: what stands on the screen while they run, at their end, and after an interrupt."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from bitgolf.files import write_json
from helpers.screen import TerminalProgram
from helpers.toy import toy_recipe

CLOCK = re.compile(r"\[ *([0-9.]+) s\] ")


def toy_run(folder: Path, width: int, *words: str, steps: int = 2) -> TerminalProgram:
    """`bitgolf run` of the toy recipe on a terminal. The score stage runs in a process of its own."""
    (folder / "text.txt").write_text("".join(f"some words and {i} more, {i * i} of them\n" for i in range(4000)))
    write_json(folder / "recipe.json", toy_recipe(steps=steps).set("proof", None).to_json())
    command = [sys.executable, "-m", "bitgolf", "run", str(folder / "recipe.json"), "--text", str(folder / "text.txt")]
    return TerminalProgram([*command, "--out", str(folder / "run"), *words], width)


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, pytest.param(120, marks=pytest.mark.exhaustive)])
def test_a_run_from_its_start_to_its_result(width: int, tmp_path: Path) -> None:
    with toy_run(tmp_path, width) as running:
        running.wait_for(lambda output: "score contiguous" in output, 200)
        live = running.screen.lines[-1]
        assert live.startswith("score ") or CLOCK.match(live)
        assert running.finish(200) == 0
        shown, output = running.screen.lines, running.output
    paths = [line for line in shown if str(tmp_path) in line]
    assert all(len(line) <= width or len(line.removesuffix(" \\").split()) == 1 for line in shown), shown
    *messages, empty = shown[: shown.index(next(line for line in shown if line.startswith("Result of toy")))]
    assert empty == "", "the result stands apart from the messages"
    times = [float(match[1]) for line in messages if (match := CLOCK.match(line))]
    assert len(times) > 10 and times == sorted(times), "one clock, also of the process that scores"
    assert all(
        len(CLOCK.findall(line)) <= 1 and (CLOCK.match(line) or line.startswith(" " * 11) or line in paths)
        for line in messages
    )
    assert not any("━" in line for line in shown), "no live line is left"
    assert any("packed, contiguous:" in line for line in messages)
    assert any(line.startswith("bytes ") and " / 1,000,000" in line for line in shown)
    assert "Try next:" in shown and not any("Parts in use" in line for line in shown)
    assert "\x1b[?25l" not in output[output.rindex("\x1b[?25h") :], "the cursor is shown"


@pytest.mark.slow
def test_an_interrupt_of_a_run_leaves_one_error(tmp_path: Path) -> None:
    with toy_run(tmp_path, 80, steps=10**6) as running:
        running.wait_for(lambda output: re.search(r"loss \d", output), 200)
        assert running.screen.lines[-1].startswith("train  ") and "tokens/s" in running.screen.lines[-1]
        running.press(b"\x03")
        assert running.finish(60) == 130
        shown = running.screen.lines
    assert shown[-1] == "  hint: continue with --resume" and shown[-2].startswith(
        "bitgolf: stopped by SIGINT after step"
    )
    assert not any("━" in line or "^C" in line for line in shown)
