"""What is chosen for a run of the recipe `auto`: once for each folder, from its text and the speed of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from bitgolf.data.shard_folder import open_shard_folder
from bitgolf.data.shards import TokenStream
from bitgolf.errors import CorruptFileError, FormatVersionError
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.pipeline.machine_speed import measure_speed
from bitgolf.pipeline.state import stored_inputs
from bitgolf.recipes import scaling_laws
from bitgolf.recipes.choose import REFERENCE_BUDGET, REFERENCE_SPEED, Budget, Choice, choose
from bitgolf.report.display import current_display
from bitgolf.text.containers import COMPRESSIONS
from bitgolf.text.documents import PythonStandardLibrary
from bitgolf.text.files import find_files, is_stream
from bitgolf.text.read_report import ReadReport

COMPRESSION_RATIO = 3
"""Bytes of text for each byte of a compressed file, roughly: only the number of epochs depends on it."""
UNKNOWN_TEXT_BYTES = 100_000_000
"""Assumed of standard input and pipes, which can be read only once."""


class AutoRequest(NamedTuple):
    """What the user asks for. speed: of training, in floating-point operations per second; None to measure it."""

    cap: int
    seconds: float
    speed: float | None = None


def auto_request(cap: int | None, seconds: float | None, speed: float | None) -> AutoRequest:
    """The request of these options; cap and clock are those of `quickstart` where they are not given."""
    usual = REFERENCE_BUDGET
    return AutoRequest(usual.cap if cap is None else cap, usual.seconds if seconds is None else seconds, speed)


def choose_for_run(
    request: AutoRequest, given: GivenInputs, folder: Path | None, device: str = "auto", processes: int = 1
) -> Choice:
    """The choice that `folder` stores, if it was made for the same request and text; otherwise a new one.

    Without a given speed, it is measured, which takes about 5 s. Raises `UsageError` if a number is out of its range.
    """
    text_bytes, vocab = text_size(given)
    speed = request.speed or REFERENCE_SPEED
    asked = Budget(cap=request.cap, seconds=request.seconds, text_bytes=text_bytes, speed=speed, vocab=vocab)
    choice = choose(asked)  # first: it raises before anything is measured
    stored = _stored_choice(folder)
    if stored and _same_request(stored.budget, asked, given_speed=request.speed):
        current_display().message(f"auto: the sizes are those that were chosen when the run in {folder} began")
        return stored
    if request.speed is not None:
        return choice
    current_display().message("auto: measuring the training speed of this machine, about 5 s …")
    return choose(msgspec.structs.replace(asked, speed=measure_speed(device, processes)))


def _stored_choice(folder: Path | None) -> Choice | None:
    try:
        stored = stored_inputs(folder) if folder else None
    except FormatVersionError:
        raise
    except CorruptFileError:  # the inputs that are given take its place
        return None
    return stored.auto if stored else None


def _same_request(stored: Budget, asked: Budget, *, given_speed: float | None) -> bool:
    """Whether a choice was made for the same cap, clock and text, and for the speed if one is given."""
    return asked == (stored if given_speed else msgspec.structs.replace(stored, speed=asked.speed))


def text_size(given: GivenInputs) -> tuple[int, int]:
    """(bytes of the text, tokens of its vocabulary, or 0 if a tokenizer is yet to be trained).

    Nothing is read but sizes, so files in a compressed form are estimated, and archives count as they are.
    """
    if given.shards:
        return _shards_size(given.shards, given.tokenizer)
    if not given.text:
        return PythonStandardLibrary().size(), 0
    if any(is_stream(path) for path in given.text):
        current_display().message(f"auto: the size of the stream is unknown; {UNKNOWN_TEXT_BYTES:,} bytes are assumed")
        return UNKNOWN_TEXT_BYTES, 0
    files = [found.path for found in find_files(given.text, ReadReport())]
    return sum(file.stat().st_size * (COMPRESSION_RATIO if file.suffix in COMPRESSIONS else 1) for file in files), 0


def _shards_size(shards: Path, tokenizer: Path | None) -> tuple[int, int]:
    folder = open_shard_folder(shards, tokenizer)
    vocab = folder.tokenizer.vocab
    tokens = len(TokenStream(folder.shards("train")))
    return round(tokens * scaling_laws.bytes_per_token(vocab)), vocab
