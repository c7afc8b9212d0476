"""`bitgolf doctor`: bits per byte lost by quantization, by tensor, and checks that find what is wrong with a run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgolf.artifact.model import load_model
from bitgolf.data.manifest import load_manifest
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.model.lm import LM
from bitgolf.model.parameters import load_weights, parameter_roles, read_weights
from bitgolf.pipeline.compression import load_meta_model
from bitgolf.pipeline.stages import stage_named
from bitgolf.pipeline.state import Run, open_run
from bitgolf.quantize.calibration.observe import matrix_stats, observe
from bitgolf.quantize.calibration.sources import CalibrationContext, CalibrationSource, TrainingText
from bitgolf.quantize.calibration.stats_file import load_calibration
from bitgolf.quantize.diagnose.checks import diagnose, drop_unmatched_rules
from bitgolf.quantize.diagnose.code_checks import artifact_mismatch
from bitgolf.quantize.diagnose.quantized_model import QuantizationFinding, QuantizedModel, first_and_count
from bitgolf.quantize.encoding import codecs_by_path, decode_model, load_encoded, tensor_reports
from bitgolf.quantize.stats import StatsByPath
from bitgolf.report.log import RunLog
from bitgolf.report.progress import WorkProgress
from bitgolf.runtime.device import Device, select_device
from bitgolf.score.held_out_bpb import HeldOutBpb
from bitgolf.score.text import load_validation

SEVERITIES = ("error", "warning", "note")
CERTAIN_ERRORS, MAX_RATIO = 3.0, 2.0
"""A measured cost above so many standard errors is certain; it should be within this factor of the predicted one."""
CHECKED_STAGES = ("calibrate", "quantize")


class TensorCost(msgspec.Struct, frozen=True, kw_only=True):
    """Effect of quantization on a tensor.

    max_error, rms_error: absolute. bits_per_weight: order-0 entropy of the codes, scales included.
    predicted_gap_bpb: None without statistics of the tensor's inputs. measured_gap_bpb: None unless the tensor was
    quantized alone.
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
    """Increase in bpb if only the tensors of one group are quantized.

    predicted_gap_bpb: None if there are no statistics for any of them.
    """

    name: str
    tensors: int
    predicted_gap_bpb: float | None
    measured_gap_bpb: float
    standard_error_bpb: float


class RunFinding(msgspec.Struct, frozen=True):
    """A problem of a run.

    where: a tensor, a path in the recipe or a file. severity: `error` (do not trust this run), `warning` or `note`.
    """

    rule: str
    severity: str
    message: str
    where: str
    hint: str


class DoctorResult(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `doctor --json`.

    tokens: number of held-out targets that were scored. averaged_bpb: score of the averaged weights.
    gap_bpb: increase in bpb with all tensors quantized. predicted_gap_bpb: sum of the tensors' predictions.
    summed_bpb: sum of the groups' measurements. explained_share: summed_bpb / gap_bpb (the rest is interaction between
    groups); None if the gap is 0. passes: whether no finding is an error.
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
    """Measured costs of quantization.

    averaged: bpb of the averaged weights. whole: increase in bpb with all tensors quantized, by window of the text.
    groups: costs of groups of tensors. alone: tensor -> increase in bpb if only this tensor is quantized.
    """

    averaged: float
    whole: NDArray[np.float64]
    groups: list[TensorGroupCost]
    alone: dict[str, float]


def diagnose_run(folder: Path, *, tokens: int, per_tensor: bool, device: str = "auto") -> DoctorResult:
    """Measure the cost of quantization and check a run's files.

    tokens: number of held-out targets. per_tensor: quantize each tensor alone, not tensors of a kind together. device:
    kind of device, as in `select_device`. Raises `UsageError` if the run was not quantized.
    """
    run, chosen = open_run(folder, RunLog()), select_device(device_type=device)
    if missing := [file.name for file in (run.files.averaged, run.files.codes) if not file.exists()]:
        hint = f"`bitgolf run {folder}` continues it"
        raise UsageError(f"this run was not quantized: {missing[0]} is missing", where=str(folder), hint=hint)
    quantized, findings = _load_quantized_model(run, tokens, chosen)
    findings += [*diagnose(quantized), *_check_stage_keys(run), *_check_artifact(run, quantized)]
    evaluator = HeldOutBpb(
        load_meta_model(run), load_validation(run.data_folder), run.recipe().score[0](), chosen, tokens
    )
    nats = quantized.costs()
    predicted = {path: cost / math.log(2) / evaluator.bytes_per_token for path, cost in nats.items()}
    gap = _measure(run, quantized, evaluator, predicted, per_tensor)
    findings += poor_predictions(gap.groups)
    return _result(run, quantized, evaluator.targets, predicted, gap, findings)


def _measure(
    run: Run, quantized: QuantizedModel, evaluator: HeldOutBpb, predicted: Mapping[str, float], each: bool
) -> Gap:
    """Score with all tensors quantized, and with each group of tensors quantized alone."""
    before = evaluator.bpb_by_window(quantized.weights)
    gap = Gap(float(before.sum()), evaluator.bpb_by_window(quantized.decoded) - before, [], {})
    groups = _tensor_groups(quantized, each)
    work = WorkProgress(run.log.progress, "measure", "tensors" if each else "groups of tensors")
    for i, (name, paths) in enumerate(groups.items()):
        work.update(i, len(groups))
        weights = {**quantized.weights, **{path: quantized.decoded[path] for path in paths}}
        changed, known = evaluator.bpb_by_window(weights) - before, [predicted[p] for p in paths if p in predicted]
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


def poor_predictions(groups: Sequence[TensorGroupCost]) -> list[QuantizationFinding]:
    """A finding if a measured cost is certain and the statistics predict less than half or more than twice of it.

    Codecs that allocate bits by predicted cost then give some tensors too few.
    """

    def ratio(group: TensorGroupCost) -> float:
        return group.measured_gap_bpb / max(group.predicted_gap_bpb or 0.0, 1e-12)

    certain = [g for g in groups if g.measured_gap_bpb > CERTAIN_ERRORS * g.standard_error_bpb]
    wrong = [g for g in certain if g.predicted_gap_bpb is not None and not 1 / MAX_RATIO <= ratio(g) <= MAX_RATIO]
    if not wrong:
        return []
    worst = max(wrong, key=lambda group: abs(math.log(ratio(group))))
    message = (
        f"quantization of {worst.name} costs {worst.measured_gap_bpb:.5f} bpb (standard error"
        f" {worst.standard_error_bpb:.5f}), {ratio(worst):.3g} times what the statistics predict"
    )
    hint = "calibrate on more text (calibrate.source.batches), and count the uses of rows (calibrate.usage_tokens)"
    return [QuantizationFinding("poor-prediction", "warning", message, first_and_count(g.name for g in wrong), hint)]


def _result(
    run: Run,
    quantized: QuantizedModel,
    targets: int,
    predicted: Mapping[str, float],
    gap: Gap,
    findings: list[QuantizationFinding],
) -> DoctorResult:
    tensors = [
        TensorCost(**row._asdict(), predicted_gap_bpb=predicted.get(row.path), measured_gap_bpb=gap.alone.get(row.path))
        for row in quantized.reports
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
        findings=[RunFinding(*f) for f in sorted(findings, key=lambda f: SEVERITIES.index(f.severity))],
        passes=not any(f.severity == "error" for f in findings),
    )


def _standard_error(parts: NDArray[np.float64]) -> float:
    """Standard error of the sum of parts, which are taken as independent and identically distributed."""
    return float(parts.std(ddof=1) * math.sqrt(len(parts))) if len(parts) > 1 else math.inf


def _tensor_groups(quantized: QuantizedModel, each: bool) -> dict[str, list[str]]:
    """Group name -> tensors: those whose paths differ only in layer numbers, or each tensor alone."""
    found: dict[str, list[str]] = {}
    for path in quantized.weights:
        found.setdefault(path if each else re.sub(r"(?<=\.)\d+(?=\.)", "*", path), []).append(path)
    return found


def _load_quantized_model(run: Run, tokens: int, device: Device) -> tuple[QuantizedModel, list[QuantizationFinding]]:
    recipe, model = run.recipe(), load_meta_model(run)
    weights, codes = read_weights(run.files.averaged, stage="average"), load_encoded(run.files.codes)
    load_weights(model, weights)
    roles = parameter_roles(model)
    rules, findings = drop_unmatched_rules(recipe.quantize, roles)
    decoded = decode_model(codes, {path: tuple(w.shape) for path, w in weights.items()}, roles, rules)
    stored = load_calibration(run.files.calibration) if recipe.calibrate else None
    rows, codecs = tensor_reports(weights, codes, roles, rules), codecs_by_path(roles, rules)
    measured = _observe_halves(run, model.to(device.torch_device).eval(), tokens // 2)
    return QuantizedModel(model, rules, roles, codecs, weights, codes, decoded, rows, stored, measured), findings


def _observe_halves(run: Run, model: LM, tokens: int) -> tuple[StatsByPath, StatsByPath] | None:
    """Statistics of the run's averaged model on two halves of about `tokens` tokens of its calibration text.

    Without calibration in the recipe, training text is used. Returns None if the text has fewer than two rows.
    """
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
    """A finding for each stage whose weights, shards or settings were changed after it ran."""
    for name in CHECKED_STAGES:
        if not stage_named(name).unchanged(run):
            message = f"{name} ran with other weights, text or settings than those in the folder, or in another version"
            hint = f"--from {name} runs it again"
            yield QuantizationFinding("stale-stage", "error", message, str(run.files.stages), hint)


def _check_artifact(run: Run, quantized: QuantizedModel) -> list[QuantizationFinding]:
    """Findings if the artifact's weights differ from the decoded codes."""
    path = run.files.artifact
    if not path.exists():
        message = "there is no artifact yet, so it was not compared with the codes"
        return [QuantizationFinding("not-packed", "note", message, str(path), "--from pack creates it")]
    try:
        return list(artifact_mismatch(quantized.decoded, dict(load_model(path).model.named_parameters())))
    except BitgolfError as error:
        return [QuantizationFinding("not-as-packed", "error", error.message, error.where or str(path), error.hint)]
