"""The options of `bitgolf run` that name its text or shards and its seed, compared with what the folder stores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from bitgolf.config.spec import Spec
from bitgolf.data.shard_folder import check_tokenizer_option, open_shard_folder
from bitgolf.errors import BitgolfError, CorruptFileError, FormatVersionError, UsageError
from bitgolf.files import json_digest
from bitgolf.pipeline.state import RunInputs, ScoreTokens, stored_inputs
from bitgolf.recipes.choose import Choice
from bitgolf.recipes.identity import QUICK_SCORE_TOKENS, is_quick
from bitgolf.recipes.recipe import Recipe
from bitgolf.text.files import absolute, check_paths, copy_stream, is_stream
from bitgolf.text.read_report import DEFAULT_OPTIONS, ReadOptions


class GivenInputs(NamedTuple):
    """Options as they were given.

    text: paths and patterns, `-` for standard input. shards: a folder of shards. tokenizer: of the shards, None for the
    one in their folder. reading: how records of the text are read. seed, score_tokens: None if not given. auto: what was
    chosen for the recipe `auto`.
    """

    text: Sequence[Path] = ()
    shards: Path | None = None
    tokenizer: Path | None = None
    reading: ReadOptions = DEFAULT_OPTIONS
    seed: int | None = None
    score_tokens: ScoreTokens | None = None
    auto: Choice | None = None

    def check(self, earlier: RunInputs | None) -> None:
        """Raise `UsageError` if options exclude each other or have no effect, or a path does not exist.

        earlier: inputs of the run that is continued, which options that were not given are taken from; None if none is.
        """
        if self.text and self.shards:
            message = "--text and --shards were both given, but exclude each other"
            raise UsageError(message, hint="leave one of them out")
        if self.reading != DEFAULT_OPTIONS and not (self.text or (earlier and earlier.text)):
            message = "options of reading text have no effect without --text"
            raise UsageError(message, where=" ".join(self.reading.words()), hint="add --text PATH, or leave them out")
        stored = Path(earlier.shards) if earlier and earlier.shards and not self.text else None
        check_tokenizer_option(self.tokenizer, self.shards or stored)
        if self.shards:
            open_shard_folder(self.shards, self.tokenizer).check_files()
        try:
            check_paths(self.text)
        except UsageError as error:
            raise UsageError(error.message, where=f"--text {error.where}", hint=error.hint) from error

    def folder_suffix(self) -> str:
        """A suffix that keeps the folders of one recipe on different data apart; empty if no data is named."""
        named = ["-" if is_stream(p) else absolute(p) for p in self.text]
        named += [str(path.resolve()) for path in (self.shards, self.tokenizer) if path]
        named += self.reading.words()
        return f"-{json_digest(named)[:6]}" if named else ""

    def inputs(self, base: RunInputs, folder: Path) -> RunInputs:
        """The inputs of the run in `folder`; what was not given is taken from `base`.

        Standard input and pipes are copied to the folder `text` of the run, so that the run can be repeated.
        """
        text = tuple(str(copy_stream(p, folder / "text")) if is_stream(p) else absolute(p) for p in self.text)
        shards = str(self.shards.resolve()) if self.shards else None
        if not (text or shards):
            text, shards = base.text, base.shards
        return RunInputs(
            seed=base.seed if self.seed is None else self.seed,
            text=text,
            reading=_merged(self.reading, base.reading if text == base.text else DEFAULT_OPTIONS),
            shards=shards,
            tokenizer=str(self.tokenizer.resolve())
            if self.tokenizer
            else base.tokenizer
            if shards == base.shards
            else None,
            score_tokens=base.score_tokens if self.score_tokens is None else self.score_tokens,
            auto=self.auto or base.auto,
        )


def first_inputs(recipe: Spec[Recipe]) -> RunInputs:
    """The inputs of a run without options. A recipe that `--quick` has made a toy is scored on a sample."""
    return RunInputs(seed=0, score_tokens=QUICK_SCORE_TOKENS if is_quick(recipe["name"]) else "all")


def _merged(given: ReadOptions, stored: ReadOptions) -> ReadOptions:
    return ReadOptions(
        key=given.key or stored.key,
        skip_null=given.skip_null or stored.skip_null,
        strict=given.strict or stored.strict,
    )


def check_same_inputs(folder: Path, wanted: RunInputs, *, replaced: str | None) -> None:
    """Raise `UsageError` if the run in `folder` has other inputs than `wanted`, with what differs.

    replaced: the stage from which the run begins again: `prepare` may have another text, `prepare` and `train` another
    seed.
    """
    try:
        stored = stored_inputs(folder)
    except FormatVersionError:
        raise
    except CorruptFileError:  # the inputs that are given take its place
        return
    if stored is None or replaced == "prepare":
        return
    differing = list(_differences(stored, wanted))
    if replaced == "train":
        differing = [words for words in differing if not words.startswith("--seed")]
    if differing:
        raise UsageError(
            f"the run in this folder has other inputs: {'; '.join(differing)}",
            where=str(folder),
            hint="leave the option out, choose another --out, or give --from prepare to begin the run again",
        )


def _differences(stored: RunInputs, wanted: RunInputs) -> Iterator[str]:
    rows = (
        ("--seed", str(stored.seed), str(wanted.seed)),
        ("--text", " ".join(stored.text), " ".join(wanted.text)),
        ("--shards", stored.shards or "", wanted.shards or ""),
        ("--tokenizer", stored.tokenizer or "", wanted.tokenizer or ""),
        ("options of reading text", " ".join(stored.reading.words()), " ".join(wanted.reading.words())),
    )
    for option, before, now in rows:
        if before != now:
            yield f"{option} was {before or 'not given'}, now {now or 'not given'}"


@contextmanager
def discarded_copies(folder: Path) -> Iterator[None]:
    """If the block raises a `BitgolfError`, delete copies of standard input that it made and no run refers to."""
    copies = folder / "text"
    before = set(copies.glob("*"))
    try:
        yield
    except BitgolfError:
        stored = None
        with suppress(BitgolfError):
            stored = stored_inputs(folder)
        for path in set(copies.glob("*")) - before:
            if not (stored and str(path.resolve()) in stored.text):
                path.unlink()
        with suppress(OSError):  # it is not there, or not empty
            copies.rmdir()
        raise
