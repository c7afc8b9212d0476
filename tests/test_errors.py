"""Tests of error messages, and of the chain of causes of an exception."""

from __future__ import annotations

import pytest

from bitgolf.config.parse import apply_assignment
from bitgolf.errors import BitgolfError, CorruptFileError, FormatVersionError, RecipeError, exception_chain
from bitgolf.recipes import get_recipe


def test_a_file_of_an_older_format_says_both_versions_and_what_to_do() -> None:
    error = FormatVersionError("the artifact", found=1, supported=2, where="a.bg")
    assert isinstance(error, CorruptFileError)
    assert str(error).startswith("a.bg: the artifact has format 1; this version reads format 2\n")
    assert "make it again" in str(error)


def test_a_file_without_a_format_number() -> None:
    error = FormatVersionError("the run folder", found=None, supported=2)
    assert "the run folder has no format number; this version reads format 2" in str(error)


def test_the_chain_holds_explicit_and_implicit_causes_and_ends() -> None:
    chain: list[BaseException] = []
    try:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                int("second")
        except ValueError as error:
            raise RuntimeError("third") from error
    except RuntimeError as error:
        chain = exception_chain(error)
    assert [type(e) for e in chain] == [RuntimeError, ValueError, KeyError]
    chain[-1].__context__ = chain[0]
    assert exception_chain(chain[0]) == chain


@pytest.mark.parametrize("text", ["x" * 100_000, "y" * 201, "a b " + "z" * 5_000])
def test_what_was_given_is_quoted_with_at_most_a_line(text: str) -> None:
    printed = str(BitgolfError(f"there is no {text!r} here", where="--set", hint="leave it out"))
    assert len(printed) < 300 and f"({len(text.split()[-1]) + 2 - ('b' in text):,} characters)" in printed
    assert printed.endswith("hint: leave it out")


def test_long_paths_and_sentences_are_kept() -> None:
    path, sentence = "/folder" * 100, "a word " * 100
    assert str(BitgolfError(sentence, where=path)) == f"{path}: {sentence}"


@pytest.mark.parametrize(
    "assignment", ["a" * 50_000, "a" * 50_000 + "=1", "model.dim=" + "b " * 50_000, "model=" + "[" * 90_000]
)
def test_a_long_assignment_is_quoted_with_at_most_a_line(assignment: str) -> None:
    with pytest.raises(RecipeError) as caught:
        apply_assignment(get_recipe("quickstart"), assignment)
    assert len(str(caught.value)) < 800
