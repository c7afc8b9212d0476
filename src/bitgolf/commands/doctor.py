"""`bitgolf doctor`: where the bits per byte between the averaged weights and the packed ones went, and what is wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from bitgolf import __version__
from bitgolf.artifact.model import load
from bitgolf.config.parse import from_json
from bitgolf.data.manifest import load_manifest
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.files import read_json, value_digest
from bitgolf.model.lm import LM
from bitgolf.model.parameters import load_weights, roles
from bitgolf.pipeline import calibration, stages
from bitgolf.pipeline.execute import Run
from bitgolf.quantize.calibration.observe import means, observe
from bitgolf.quantize.calibration.sources import Source, Subject, TrainingText
from bitgolf.quantize.calibration.stats_file import load_calibration
from bitgolf.quantize.diagnose.checks import examine, living
from bitgolf.quantize.diagnose.code_checks import not_as_packed
from bitgolf.quantize.diagnose.quantized_model import Alarm, Patient
from bitgolf.quantize.encoding import assign, decode_all, load_codes, report
from bitgolf.quantize.stats import Calibration
from bitgolf.report.log import Journal
from bitgolf.runtime.device import Device, choose
from bitgolf.score.player import StaticPlayer
from bitgolf.score.referee import score as referee_score
from bitgolf.score.text import validation

NEEDED = ("recipe.json", "inputs.json", "averaged.safetensors", "codes/codes.safetensors")


class Measure:
    """bpb of weights on the first so many targets of the held-out text, as the run's first method scores."""

    def __init__(self, run: Run, model: LM, tokens: int, device: Device) -> None:
        text = validation(run.data)
        self.per_token = text.bytes / text.targets
        self.text, self.model = text.head(tokens), model
        self.targets, self.device = self.text.targets, device
        self.method = run.recipe["score"][0]()

    def bits(self, weights: Mapping[str, Tensor]) -> NDArray[np.float64]:
        """Of each window's length of targets, as bits per byte of the whole."""
        load_weights(self.model, dict(weights))
        charges, window = np.zeros(self.targets), self.method.window
        with closing(StaticPlayer(self.model, self.model.embed.weight.shape[0], self.device, longest=window)) as player:
            referee_score(player, self.text, self.method, charges=charges)
        starts = range(0, self.targets, window)
        return np.add.reduceat(charges, starts) / (self.targets * self.per_token)


class Cost(NamedTuple):
    """What storing these tensors, and nothing else, costs in bpb, with the standard error of `measured`. `predicted`: None
    where nothing is known of any of them."""

    name: str
    paths: Sequence[str]
    predicted: float | None
    measured: float
    error: float


def doctor(folder: Path, *, tokens: int, each: bool, device: str = "auto") -> dict[str, Any]:
    """The document of `doctor --json`. Measures kinds of tensors, or `each` of them, on so many held-out targets.

    device: the kind, as `train.device.choose` takes it.
    """
    run, chosen = _opened(folder), choose(wanted=device)
    patient, alarms = _patient(run, tokens, chosen)
    alarms += [*examine(patient), *_stale(run), *_reloaded(run, patient)]
    measure = Measure(run, patient.model, tokens, chosen)
    before = measure.bits(patient.weights)
    gap = measure.bits(patient.decoded) - before
    nats = patient.costs()
    predicted = {path: cost / math.log(2) / measure.per_token for path, cost in nats.items()}
    costs = []
    for i, (name, paths) in enumerate(units := _units(patient, each)):
        run.journal.progress(f"doctor: {i} of {len(units)} {'tensors' if each else 'kinds'}")
        changed = measure.bits({**patient.weights, **{path: patient.decoded[path] for path in paths}}) - before
        own = [predicted[path] for path in paths if path in predicted]
        costs.append(Cost(name, paths, sum(own) if own else None, float(changed.sum()), _error(changed)))
    return _document(run, patient, measure, predicted, costs, gap, float(before.sum()), alarms)


def _document(
    run: Run,
    patient: Patient,
    measure: Measure,
    predicted: Mapping[str, float],
    costs: list[Cost],
    gap: NDArray[np.float64],
    averaged: float,
    alarms: list[Alarm],
) -> dict[str, Any]:
    order = ("error", "warning", "note")
    single = {cost.paths[0]: cost.measured for cost in costs if len(cost.paths) == 1}
    tensors = [
        {**row._asdict(), "predicted_bpb": predicted.get(row.path), "measured_bpb": single.get(row.path)}
        for row in patient.reports
    ]
    total, whole = sum(cost.measured for cost in costs), float(gap.sum())
    return {
        "run": str(run.folder),
        "tokens": measure.targets,
        "averaged_bpb": averaged,
        "tensors": sorted(tensors, key=lambda t: -max(t["predicted_bpb"] or 0.0, t["measured_bpb"] or 0.0)),
        "costs": [
            {"name": c.name, "tensors": len(c.paths), "predicted_bpb": c.predicted, "measured_bpb": c.measured, "error_bpb": c.error}
            for c in sorted(costs, key=lambda c: -c.measured)
        ],
        "predicted_bpb": sum(predicted.values()),
        "sum_bpb": total,
        "gap_bpb": whole,
        "gap_error_bpb": _error(gap),
        "explained": total / whole if whole else None,
        "alarms": [a._asdict() for a in sorted(alarms, key=lambda a: order.index(a.severity))],
        "passes": not any(a.severity == "error" for a in alarms),
    }  # fmt: skip


def _error(parts: NDArray[np.float64]) -> float:
    """Standard error of a sum of parts that are alike and independent."""
    return float(parts.std(ddof=1) * math.sqrt(len(parts))) if len(parts) > 1 else math.inf


def _units(patient: Patient, each: bool) -> list[tuple[str, list[str]]]:
    """What is measured together: tensors of one kind, which is a path without the numbers of its layers."""
    found: dict[str, list[str]] = {}
    for path in patient.weights:
        found.setdefault(path if each else re.sub(r"(?<=\.)\d+(?=\.)", "*", path), []).append(path)
    return list(found.items())


def _opened(folder: Path) -> Run:
    if missing := [name for name in NEEDED if not (folder / name).exists()]:
        raise UsageError(
            f"this is no run that was quantized: {missing[0]} is missing", place=str(folder), mend="bitgolf run"
        )
    inputs, recipe = read_json(folder / "inputs.json"), from_json(read_json(folder / "recipe.json"))
    shards = Path(inputs["shards"]) if inputs["shards"] else None
    run = Run(recipe, folder, Journal(), inputs["seed"], tuple(inputs["text"]), shards)
    run.done = read_json(folder / "stages.json") if (folder / "stages.json").exists() else {}
    return run


def _patient(run: Run, tokens: int, device: Device) -> tuple[Patient, list[Alarm]]:
    model = stages.empty_model(run)
    weights, codes = (
        load_file(run.folder / "averaged.safetensors"),
        load_codes(run.folder / "codes" / "codes.safetensors"),
    )
    load_weights(model, weights)
    kinds = roles(model)
    rules, alarms = living(run.recipe["quantize"], kinds)
    decoded = decode_all(codes, {path: tuple(w.shape) for path, w in weights.items()}, kinds, rules)
    known = run.folder / "calibration.safetensors"
    stored = load_calibration(known) if run.recipe["calibrate"] else None
    rows = report(weights, codes, kinds, rules)
    codecs = assign(kinds, rules)
    seen = _seen(run, model.to(device.device).eval(), tokens // 2)
    return Patient(model, rules, kinds, codecs, weights, codes, decoded, rows, stored, seen), alarms


def _seen(run: Run, model: LM, tokens: int) -> tuple[Calibration, Calibration] | None:
    """Two halves of about so many tokens, from what the run was calibrated on, through the model as it is scored."""
    source: Source = run.recipe["calibrate"]().source if run.recipe["calibrate"] else TrainingText(rows=2)
    subject = Subject(
        model,
        run.data,
        run.recipe["train.length"],
        load_manifest(run.data).bos,
    )
    batch, rows = source.open(subject), list[Tensor]()
    for number in range(source.batches):
        rows += batch(number)
        if len(rows) > 1 and sum(len(row) for row in rows) >= tokens:
            break
    if len(rows) < 2:
        return None
    first, second = (means(observe(model, torch.stack(rows[i::2]).split(8), seed=i)) for i in range(2))
    return first, second


def _stale(run: Run) -> list[Alarm]:
    """Stages whose inputs are others than when they ran: other weights, shards or settings than the folder's."""
    found = []
    for stage, inputs in (("calibrate", calibration.inputs), ("quantize", stages.quantize_inputs)):
        if run.done.get(stage, {}).get("key") != value_digest([stage, __version__, inputs(run)]):
            cause = (
                f"{stage} was done with other weights, text or settings than the folder holds, or by another version"
            )
            found.append(Alarm("stale-stage", "error", cause, str(run.folder / "stages.json"), f"--from {stage}"))
    return found


def _reloaded(run: Run, patient: Patient) -> list[Alarm]:
    path = run.folder / "artifact.bg"
    if not path.exists():
        return [
            Alarm(
                "not-packed",
                "note",
                "there is no artifact yet, so it could not be compared with the codes",
                str(path),
                "--from pack",
            )
        ]
    try:
        return list(not_as_packed(patient.decoded, dict(load(path).model.named_parameters())))
    except BitgolfError as error:
        return [Alarm("not-as-packed", "error", error.cause, error.place or str(path), error.mend)]
