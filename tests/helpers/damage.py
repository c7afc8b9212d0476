"""Damage to files, and a finished run at toy size that is made from text once per session and copied for each test."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from bitgolf.artifact.model import load_model
from bitgolf.config.recipe_file import write_recipe
from bitgolf.config.spec import Spec
from bitgolf.pipeline.scoring import ScoringJob, score_on_rank
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.score.result import MethodResult
from helpers.command_line import run_command
from helpers.toy_run import scalable_recipe


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def empty(data: bytes) -> bytes:
    return b""


def zero(data: bytes) -> bytes:
    return bytes(len(data))


def flip_bit(data: bytes) -> bytes:
    """Change one bit in the middle."""
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    return bytes(changed)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {"cut": cut, "emptied": empty, "zeroed": zero, "one bit": flip_bit}


def score_in_this_process(job: ScoringJob, *, processes: int) -> list[MethodResult]:
    """Replaces `score_in_workers`, which takes seconds to import torch in a new process."""
    return score_on_rank(job, load_model(job.artifact), RunLog(quiet=True))


def toy_recipe_of_text() -> Spec[Recipe]:
    """Eight steps, with calibration and three codecs; a checkpoint after each step."""
    return scalable_recipe().set("train.checkpoint_seconds", 0.0).set("tokens.vocab", 300)


@cache
def _made() -> Path:
    folder, draw = Path(mkdtemp(prefix="bitgolf-toy-")), random.Random(7)
    (folder / "text").mkdir()
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 6))) for _ in range(60)]
    for i in range(40):
        (folder / "text" / f"{i:02d}.txt").write_text(" ".join(draw.choices(words, k=120)))
    write_recipe(folder / "toy.json", toy_recipe_of_text())
    done = run_command("run", str(folder / "toy.json"), "--text", str(folder / "text"), "--out", str(folder / "run"))
    assert done.returncode == 0, done.stderr
    return folder


def finished_copy(folder: Path) -> Path:
    """A copy of the finished run; its recipe and text are named by `toy_source`."""
    return Path(shutil.copytree(_made() / "run", folder / "run", copy_function=shutil.copy2))


def toy_source() -> tuple[str, ...]:
    """The words of `bitgolf run` that name the recipe and the text of the finished run."""
    return str(_made() / "toy.json"), "--text", str(_made() / "text")


def remove_toy() -> None:
    """Delete the finished run."""
    if _made.cache_info().currsize:
        shutil.rmtree(_made())
        _made.cache_clear()
