"""Path globs: the same matches as a regular expression, in time that hostile patterns cannot increase."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.config.glob import MAX_CACHED, MAX_LENGTH, Glob, compile_glob
from bitgolf.errors import RecipeError

PATTERNS = st.lists(st.sampled_from(["a", "b", ".", "*", "**", "**."]), max_size=8).map("".join)


def expression(glob: str) -> re.Pattern[str]:
    """The glob as a regular expression, which backtracks."""
    wild = {"**.": r"(?:.*\.)?", "**": ".*", "*": r"[^.]*"}
    parts: list[str] = re.findall(r"\*\*\.|\*\*|.", glob)
    return re.compile("".join(wild[part] if part in wild else re.escape(part) for part in parts))


@given(PATTERNS, st.text("ab.", max_size=9))
def test_a_glob_matches_what_its_expression_matches(pattern: str, path: str) -> None:
    glob = Glob(pattern)
    expected = expression(pattern).fullmatch(path) is not None
    assert glob.matches(path) is glob.matches(path) is expected


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("blocks.*.attn.**", "blocks.3.attn.q.weight", True),
        ("blocks.*.attn.**", "blocks.3.4.attn.q", False),
        ("**.mixer", "mixer", True),
        ("**.mixer", "model.block.mixer", True),
        ("**.mixer", "model.remixer", False),
        ("model.block.**.linear", "model.block.linear", True),
        ("a(b)*", "a(b)c", True),
    ],
)
def test_wildcards(pattern: str, path: str, expected: bool) -> None:
    assert compile_glob(pattern).matches(path) is expected


def test_many_wildcards_take_no_time() -> None:
    started = time.perf_counter()
    for pattern in ("**a" * 10 + "x", "**." * 60 + "x", "*" * (MAX_LENGTH - 1) + "x"):
        for layer in range(300):
            assert not Glob(pattern).matches(f"blocks.{layer}." + "a" * 60)
    assert time.perf_counter() - started < 5


def test_a_long_pattern_is_refused_in_one_line() -> None:
    with pytest.raises(RecipeError, match="at most 200 characters, got 100,000") as caught:
        Glob("*" * 100_000)
    assert len(str(caught.value)) < 300


def test_the_transitions_that_are_kept_are_bounded() -> None:
    """Every character is another transition; a hostile file of paths would otherwise fill the memory."""
    glob = Glob("**.a")
    assert not glob.matches("".join(map(chr, range(0xE000, 0xE000 + MAX_CACHED + 500))))
    assert len(glob._cache) <= MAX_CACHED and glob.matches("b.a")
