"""Tests of error messages, and of the chain of causes of an exception."""

from __future__ import annotations

from bitgolf.errors import CorruptFileError, FormatVersionError, exception_chain


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
