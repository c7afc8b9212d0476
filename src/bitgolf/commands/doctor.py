"""`bitgolf diagnose_run`: where the bits per byte between the averaged weights and the packed ones went, and what is wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.artifact.model import load_model
from bitgolf.data.manifest import load_manifest
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.model.lm import LM
from bitgolf.model.parameters import load_weights, parameter_roles
from bitgolf.pipeline.compression import load_meta_model
from bitgolf.pipeline.stages import stage_named
from bitgolf.pipeline.state import Run, open_run
from bitgolf.quantize.calibration.observe import matrix_stats, observe
from bitgolf.quantize.calibration.sources import CalibrationContext, CalibrationSource, TrainingText
from bitgolf.quantize.calibration.stats_file import load_calibration
from bitgolf.quantize.diagnose.checks import diagnose, drop_unmatched_rules
from bitgolf.quantize.diagnose.code_checks import artifact_mismatch
from bitgolf.quantize.diagnose.quantized_model import QuantizationFinding, QuantizedModel
from bitgolf.quantize.encoding import codecs_by_path, decode_model, load_encoded, tensor_reports
from bitgolf.quantize.stats import StatsByPath
from bitgolf.report.log import RunLog
from bitgolf.runtime.device import Device, select_device
from bitgolf.score.held_out_bpb import HeldOutBpb
from bitgolf.score.text import load_validation

SEVERITIES = ("error", "warning", "note")
CHECKED_STAGES = ("calibrate", "quantize")


class TensorCost(msgspec.Struct, frozen=True, kw_only=True):
    """What quantization did to a tensor. Errors are absolute; bits_per_weight is order-0, scales included.

    predicted_gap_bpb: None where nothing is known of the tensor's inputs; measured_gap_bpb: None where it was not measured
    alone.
    """

    path: str
    role: str
    codec: str
    elements: int
    max_error: float
    rms_error: float
    bits_per_weight: float
    predicted_gap_bpb: float | None
    measured_gap_bpb: float | None


class TensorGroupCost(msgspec.Struct, frozen=True, kw_only=True):
    """bpb that quantizing the tensors of one kind, and no others, costs. predicted_gap_bpb: None where nothing is known of
    any of them."""

    name: str
    tensors: int
    predicted_gap_bpb: float | None
    measured_gap_bpb: float
    standard_error_bpb: float


class RunFinding(msgspec.Struct, frozen=True):
    """where: a tensor, a path in the recipe or a file. An error means: do not trust this run."""

    rule: str
    severity: str
    message: str
    where: str
    hint: str


class DoctorResult(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `diagnose_run --json`.

    tokens: held-out targets that were scored. gap_bpb: of all tensors quantized together; summed_bpb: the sum of the
    tensor groups; explained_share: of the gap by that sum, the rest is interaction; None where there is no gap.
    passes: no finding is an error.
    """

    run: str
    tokens: int
    averaged_bpb: float
    tensors: list[TensorCost]
    tensor_groups: list[TensorGroupCost]
    predicted_gap_bpb: float
    summed_bpb: float
    gap_bpb: float
    gap_standard_error_bpb: float
    explained_share: float | None
    findings: list[RunFinding]
    passes: bool


class Gap(NamedTuple):
    """The gap of all tensors, by window of the text, and the costs of groups of them."""

    averaged: float
    whole: NDArray[np.float64]
    groups: list[TensorGroupCost]
    alone: dict[str, float]


def diagnose_run(folder: Path, *, tokens: int, per_tensor: bool, device: str = "auto") -> DoctorResult:
    """Measures kinds of tensors, or `per_tensor` of them, on so many held-out targets. device: as `device.select_device` takes it."""
    run, chosen = open_run(folder, RunLog()), select_device(device_type=device)
    if missing := [file.name for file in (run.files.averaged, run.files.codes) if not file.exists()]:
        raise UsageError(f"this run was not quantized: {missing[0]} is missing", where=str(folder), hint="bitgolf run")
    patient, alarms = _load_quantized_model(run, tokens, chosen)
    alarms += [*diagnose(patient), *_check_stage_keys(run), *_check_artifact(run, patient)]
    evaluator = HeldOutBpb(
        load_meta_model(run), load_validation(run.data_folder), run.recipe().score[0](), chosen, tokens
    )
    nats = patient.costs()
    predicted = {path: cost / math.log(2) / evaluator.bytes_per_token for path, cost in nats.items()}
    gap = _measure(run, patient, evaluator, predicted, per_tensor)
    return _result(run, patient, evaluator.targets, predicted, gap, alarms)


def _measure(
    run: Run, patient: QuantizedModel, evaluator: HeldOutBpb, predicted: Mapping[str, float], each: bool
) -> Gap:
    """Score with all tensors quantized, and with each group of them alone."""
    before = evaluator.bpb_by_window(patient.weights)
    gap = Gap(float(before.sum()), evaluator.bpb_by_window(patient.decoded) - before, [], {})
    groups = _tensor_groups(patient, each)
    for i, (name, paths) in enumerate(groups.items()):
        run.log.progress(f"doctor: {i} of {len(groups)} {'tensors' if each else 'groups of tensors'}")
        quantized = {**patient.weights, **{path: patient.decoded[path] for path in paths}}
        changed, known = evaluator.bpb_by_window(quantized) - before, [predicted[p] for p in paths if p in predicted]
        cost = TensorGroupCost(
            name=name,
            tensors=len(paths),
            predicted_gap_bpb=sum(known) if known else None,
            measured_gap_bpb=float(changed.sum()),
            standard_error_bpb=_standard_error(changed),
        )
        gap.groups.append(cost)
        gap.alone.update({path: cost.measured_gap_bpb for path in paths if len(paths) == 1})
    return gap


def _result(
    run: Run,
    patient: QuantizedModel,
    targets: int,
    predicted: Mapping[str, float],
    gap: Gap,
    alarms: list[QuantizationFinding],
) -> DoctorResult:
    tensors = [
        TensorCost(**row._asdict(), predicted_gap_bpb=predicted.get(row.path), measured_gap_bpb=gap.alone.get(row.path))
        for row in patient.reports
    ]
    summed, whole = sum(group.measured_gap_bpb for group in gap.groups), float(gap.whole.sum())
    return DoctorResult(
        run=str(run.folder),
        tokens=targets,
        averaged_bpb=gap.averaged,
        tensors=sorted(tensors, key=lambda t: -max(t.predicted_gap_bpb or 0.0, t.measured_gap_bpb or 0.0)),
        tensor_groups=sorted(gap.groups, key=lambda group: -group.measured_gap_bpb),
        predicted_gap_bpb=sum(predicted.values()),
        summed_bpb=summed,
        gap_bpb=whole,
        gap_standard_error_bpb=_standard_error(gap.whole),
        explained_share=summed / whole if whole else None,
        findings=[RunFinding(*a) for a in sorted(alarms, key=lambda a: SEVERITIES.index(a.severity))],
        passes=not any(a.severity == "error" for a in alarms),
    )


def _standard_error(parts: NDArray[np.float64]) -> float:
    """Standard error of a sum of parts that are alike and independent."""
    return float(parts.std(ddof=1) * math.sqrt(len(parts))) if len(parts) > 1 else math.inf


def _tensor_groups(patient: QuantizedModel, each: bool) -> dict[str, list[str]]:
    """What is measured together: tensors of one kind, which is a path without the numbers of its layers."""
    found: dict[str, list[str]] = {}
    for path in patient.weights:
        found.setdefault(path if each else re.sub(r"(?<=\.)\d+(?=\.)", "*", path), []).append(path)
    return found


def _load_quantized_model(run: Run, tokens: int, device: Device) -> tuple[QuantizedModel, list[QuantizationFinding]]:
    recipe, model = run.recipe(), load_meta_model(run)
    weights, codes = load_file(run.files.averaged), load_encoded(run.files.codes)
    load_weights(model, weights)
    kinds = parameter_roles(model)
    rules, alarms = drop_unmatched_rules(recipe.quantize, kinds)
    decoded = decode_model(codes, {path: tuple(w.shape) for path, w in weights.items()}, kinds, rules)
    stored = load_calibration(run.files.calibration) if recipe.calibrate else None
    rows, codecs = tensor_reports(weights, codes, kinds, rules), codecs_by_path(kinds, rules)
    seen = _observe_halves(run, model.to(device.torch_device).eval(), tokens // 2)
    return QuantizedModel(model, rules, kinds, codecs, weights, codes, decoded, rows, stored, seen), alarms


def _observe_halves(run: Run, model: LM, tokens: int) -> tuple[StatsByPath, StatsByPath] | None:
    """Two halves of about so many tokens, from what the run was calibrated on, through the model as it is scored."""
    recipe, bos = run.recipe(), load_manifest(run.data_folder).bos
    source: CalibrationSource = recipe.calibrate().source if recipe.calibrate else TrainingText(rows=2)
    subject = CalibrationContext(model, run.data_folder, recipe.train().length, bos)
    batch, rows = source.open(subject), list[Tensor]()
    for number in range(source.batches):
        rows += batch(number)
        if len(rows) > 1 and sum(len(row) for row in rows) >= tokens:
            break
    if len(rows) < 2:
        return None
    first, second = (matrix_stats(observe(model, torch.stack(rows[i::2]).split(8), seed=i)) for i in range(2))
    return first, second


def _check_stage_keys(run: Run) -> Iterator[QuantizationFinding]:
    """Stages whose inputs are others than when they ran: other weights, shards or settings than the folder's."""
    for name in CHECKED_STAGES:
        if not stage_named(name).unchanged(run):
            message = (
                f"{name} was done with other weights, text or settings than the folder holds, or by another version"
            )
            yield QuantizationFinding("stale-stage", "error", message, str(run.files.stages), f"--from {name}")


def _check_artifact(run: Run, patient: QuantizedModel) -> list[QuantizationFinding]:
    """Whether the artifact's model is the one that the codes stand for."""
    path = run.files.artifact
    if not path.exists():
        message = "there is no artifact yet, so it could not be compared with the codes"
        return [QuantizationFinding("not-packed", "note", message, str(path), "--from pack")]
    try:
        return list(artifact_mismatch(patient.decoded, dict(load_model(path).model.named_parameters())))
    except BitgolfError as error:
        return [QuantizationFinding("not-as-packed", "error", error.message, error.where or str(path), error.hint)]
