"""Results of all commands fit 80 columns, whatever names and numbers they have; numbers are never broken."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

from bitgolf.cli.options import print_result
from bitgolf.commands import tables
from bitgolf.commands.artifacts import LedgerResult, ScoreResult
from bitgolf.commands.doctor import DoctorResult
from bitgolf.commands.doctor_table import doctor_table
from bitgolf.commands.pack import PackResult
from bitgolf.commands.show import RecipeSummary
from bitgolf.commands.show_table import show_table
from bitgolf.commands.sweep import SweepResult
from bitgolf.pipeline.result import RunResult
from bitgolf.report.display import PlainDisplay, shown_on
from bitgolf.report.wrapping import columns_of
from bitgolf.score.result import CompressResult, ProofResult

NAMES = (
    "blocks.*.mixer.projection.of.a.tensor.with.a.very.long.path.that.no.table.has.room.for.weight",
    "a name of several words of which one is_longer_than_all_the_others_and_has_no_space",
    "/home/someone/a folder/runs/quickstart-with-the-digits-of-its-hash-s-and-then-more/artifact-bytes.bg",
    "日本語の名前がここにあります",
    "x",
)
INTEGERS = (15_897_259, 1, 999_999_999_999)
FLOATS = (1.23456789, -123_456.789, 0.0)
RESULTS: dict[type, Callable[[Any], str]] = {
    RunResult: tables.run_table,
    ScoreResult: tables.score_table,
    LedgerResult: tables.ledger_table,
    PackResult: tables.pack_table,
    SweepResult: tables.sweep_table,
    DoctorResult: doctor_table,
    RecipeSummary: show_table,
    CompressResult: tables.compression_line,
    ProofResult: tables.proof_line,
}


class Filler:
    """Makes values of any type of a result, each unlike the one before."""

    def __init__(self, *, missing: bool) -> None:
        self.count, self.missing = 0, missing

    def fill(self, kind: Any) -> Any:
        """A value of this type. Optional values are None if `missing`."""
        self.count += 1
        plain, inner = get_origin(kind) or kind, get_args(kind)
        if plain is Literal:
            return inner[0]
        if plain in (Union, UnionType):
            return (
                None if self.missing and NoneType in inner else self.fill(next(k for k in inner if k is not NoneType))
            )
        if plain in (list, tuple):
            return plain(self.fill(inner[0]) for _ in range(4))
        if plain is dict:
            return {self.fill(str): self.fill(inner[1]) for _ in range(4)}
        if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
            return plain(**{name: self.fill(hint) for name, hint in get_type_hints(plain).items()})
        values = {bool: (True,), int: INTEGERS, float: FLOATS, NoneType: (None,), Any: NAMES, str: NAMES}[plain]
        return values[self.count % len(values)]


def made(kind: type, *, missing: bool) -> Any:
    result = Filler(missing=missing).fill(kind)
    if isinstance(result, PackResult):
        return msgspec.structs.replace(result, counted="file")
    if isinstance(result, SweepResult):  # rows have the paths of the result
        rows = [msgspec.structs.replace(row, settings=dict.fromkeys(result.paths, NAMES[1])) for row in result.rows]
        return msgspec.structs.replace(result, rows=rows)
    return result


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("kind", RESULTS, ids=lambda kind: kind.__name__)
def test_no_line_is_wider_than_the_terminal(
    kind: type, missing: bool, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    result = made(kind, missing=missing)
    with shown_on(PlainDisplay(verbose=True)):
        text = RESULTS[kind](result)
        print_result(False, result, text)
    printed = capsys.readouterr().out
    for line in printed.splitlines():
        words = line.removesuffix(" \\").split()
        assert columns_of(line) <= width or len(words) == 1 or (line.lstrip()[0] == "'"), line
    numbers = re.compile(r"(?<![\w.,])[+-]?\d[\d,]*\.?\d*(?![\w.])")
    monkeypatch.setenv("COLUMNS", "10000")
    with shown_on(PlainDisplay(verbose=True)):
        whole = RESULTS[kind](result)
    assert set(numbers.findall(printed)) == set(numbers.findall(whole)), "no number is broken or lost"
    assert set("".join(whole.split())) <= set("".join(printed.split()) + "\\")


def test_a_run_ends_with_its_result_and_what_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = msgspec.structs.replace(
        made(RunResult, missing=True), run="runs/toy", recipe="quickstart", hash="0123", seed=3, quick=False, scored=None, code=[],
        bpb={"trained": 2.5, "packed": 2.53125, "sliding": None}, seconds={"train": 61.2, "score": 30.0, "pack": 1.0},
    )  # fmt: skip
    sizes = msgspec.structs.replace(
        result.bytes, model=373_100, total=373_100, cap=1_000_000, counted="model", code=83_170
    )
    text = tables.run_table(msgspec.structs.replace(result, bytes=sizes))
    assert text.startswith("Result of quickstart (0123), seed 3, on ")
    assert "stage       bpb\ntrained  2.5000\npacked   2.5312\n" in text and "sliding" not in text
    for line in (
        "bytes     373,100 / 1,000,000, 626,900 under the cap: the model without the",
        "          tokenizer",
        "code      83,170 bytes, the script that `bitgolf export` writes; the cap is of",
        "          the model alone",
        "time      1 min 32 s: train 1 min 01 s, score 30 s, pack 1 s",
        "report    runs/toy/report.html",
        "artifact  runs/toy/artifact.bg",
        "  bitgolf generate runs/toy/artifact.bg --prompt 'def '",
    ):
        assert line in text.splitlines()
    both = msgspec.structs.replace(sizes, total=456_270, counted="model+code")
    lines = tables.run_table(msgspec.structs.replace(result, bytes=both)).splitlines()
    assert "bytes     456,270 / 1,000,000, 543,730 under the cap: model 373,100 and code" in lines
    none = msgspec.structs.replace(sizes, code=None, code_note="a reason", counted="model+code")
    unknown = tables.run_table(msgspec.structs.replace(result, bytes=none)).splitlines()
    assert "code      unknown: a reason" in unknown and "and code" not in "".join(unknown)
    assert "Parts in use" not in text, "that is in the report"
    with shown_on(PlainDisplay(verbose=True)):
        assert "Parts in use" in tables.run_table(result)


def test_a_command_that_is_too_long_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    path = "/some/long/folder of mine/artifact.bg"
    text = tables.next_steps(("generate", path, "--prompt 'def '"))
    assert text == f"Try next:\n  bitgolf generate \\\n    '{path}' \\\n    --prompt 'def '"
