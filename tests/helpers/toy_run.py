"""A finished run at toy size. Two of its codecs have scalable steps, one does not."""

from __future__ import annotations

from pathlib import Path

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import SdClip
from bitgolf.pack.coders import RangeCoder
from bitgolf.pack.settings import Pack
from bitgolf.pipeline.execute import ExecutionOptions, run_recipe
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.pipeline.result import RunResult
from bitgolf.quantize.calibration.calibrate import Calibrate
from bitgolf.quantize.calibration.sources import TrainingText
from bitgolf.quantize.codecs.codec import Float, IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.recipes import load_recipe, named_folder
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.methods import ContiguousScoring
from helpers.toy import toy_recipe
from helpers.toy_training import make_data

RULES = (
    part(Rule, where="scale", use=part(Float, dtype="float16")),
    part(Rule, where="embedding", use=part(IntRows, bits=8, clip=part(SdClip, k=20.0), solver=part(GPTQ))),
    part(Rule, where="*", use=part(TrellisCodec, bits=4.0, states=8)),
)


def scalable_recipe() -> Spec[Recipe]:
    recipe = toy_recipe(steps=8).set("quantize", RULES).set("proof", None)
    recipe = recipe.set("calibrate", part(Calibrate, source=part(TrainingText, batches=2, rows=2)))
    coder = part(RangeCoder, variance_contexts=True, tables="sent")
    recipe = recipe.set("pack", part(Pack, cap=40_000, counted="model", coder=coder))
    return recipe.set("score", (part(ContiguousScoring, window=32),))


def run_toy(folder: Path, recipe: Spec[Recipe], shards: Path | None = None, *, first: str | None = None) -> RunResult:
    """`bitgolf run` in this process."""
    given, options = GivenInputs(shards=shards, seed=0), ExecutionOptions(from_stage=first)
    return run_recipe(recipe, given, options, argument=named_folder(str(folder)), out=folder)


def run_again(folder: Path, *sets: str, first: str | None = None) -> RunResult:
    """`bitgolf run FOLDER --set ...` in this process."""
    recipe = load_recipe(str(folder), list(sets))
    return run_recipe(recipe, GivenInputs(seed=0), ExecutionOptions(from_stage=first), argument=folder)


def finish(folder: Path) -> Path:
    """Finish a run in `folder`/run, with shards in `folder`/data; returns the run's folder."""
    run_toy(folder / "run", scalable_recipe(), make_data(folder / "data"))
    return folder / "run"
