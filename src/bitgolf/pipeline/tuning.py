"""Tuning of float parameters after the rounding of all others, if the recipe has it (`Recipe.tune`)."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from torch import Tensor

from bitgolf.config.spec import Spec
from bitgolf.data.manifest import load_manifest
from bitgolf.errors import RecipeError
from bitgolf.model.build import build_on_meta
from bitgolf.model.parameters import load_weights, parameter_roles
from bitgolf.pack.streams import EncodedTensor
from bitgolf.pipeline.state import Run
from bitgolf.quantize.calibration.sources import CalibrationContext
from bitgolf.quantize.codecs.codec import Float
from bitgolf.quantize.encoding import codecs_by_path, decode_model
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.progress import WorkProgress
from bitgolf.runtime.device import select_device


def tuned_codes(
    run: Run, recipe: Spec[Recipe], weights: Mapping[str, Tensor], codes: dict[str, EncodedTensor]
) -> dict[str, EncodedTensor]:
    """The codes with tuned float parameters; the codes themselves if the recipe tunes none, or if tuning did not help.

    weights: averaged weights by path.  codes: their codes by the rules of `recipe`. Logs the divergence before and after.
    Raises `RecipeError` if no parameter is stored as float.
    """
    settings = recipe()
    if settings.tune is None:
        return codes
    tuning, manifest = settings.tune(), load_manifest(run.data_folder)
    model = build_on_meta(settings.model, manifest.vocab, manifest.bos)
    load_weights(model, dict(weights))
    roles, shapes = parameter_roles(model), {path: tuple(w.shape) for path, w in weights.items()}
    codecs = codecs_by_path(roles, settings.quantize)
    paths = [path for path, codec in codecs.items() if isinstance(codec, Float)]
    if not paths:
        message = "no parameter is stored as float, so there is nothing to tune"
        raise RecipeError(message, where="tune", hint="use --set tune=none, or a rule with the codec Float")
    device, started = select_device(device_type=run.device_type), time.perf_counter()
    subject = CalibrationContext(
        model.to(device.torch_device), run.data_folder, settings.train().length, manifest.bos, device.autocast
    )
    progress = WorkProgress(run.log.progress, "tune", "steps").update
    found = tuning.tune(subject, decode_model(codes, shapes, roles, settings.quantize), paths, progress)
    _report(run, len(paths), found.before, found.after, time.perf_counter() - started, tuning.reserve)
    return codes | {path: codecs[path].encode(value) for path, value in found.values.items()}


def _report(run: Run, tensors: int, before: float, after: float, seconds: float, reserve: float) -> None:
    bits = [value / math.log(2) for value in (before, after)]
    kept = "" if after < before else "; it did not fall, so they keep their values"
    words = f"tuned {tensors} tensors stored as floats in {seconds:.1f} s: divergence from the averaged model"
    run.log.info(f"{words} {bits[0]:.5f} before, {bits[1]:.5f} bits per token after{kept}")
    run.log.event(
        "tuning", tensors=tensors, divergence_before=before, divergence_after=after, seconds=round(seconds, 2)
    )
    if run.recipe().train().seconds and seconds > reserve:
        message = f"tuning took {seconds:.1f} s, more than its reserve of {reserve:g} s on the training clock"
        run.log.event("warning", message=f"{message}; a larger tune.reserve ends training earlier")
