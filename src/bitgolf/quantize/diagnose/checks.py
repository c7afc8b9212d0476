"""Checks of a quantized model against its calibration, training and recipe. One function for each finding.

Checks of the codes themselves are in `code_checks`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from bitgolf.config.rules import assign_to_rules, match_rules
from bitgolf.config.spec import Spec, schema
from bitgolf.errors import BitgolfError
from bitgolf.pack.streams import EncodedTensor
from bitgolf.quantize.codecs.codec import Codec
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.diagnose import code_checks
from bitgolf.quantize.diagnose.qat_consistency import qat_mismatches
from bitgolf.quantize.diagnose.quantized_model import Check, QuantizationFinding, QuantizedModel, first_and_count
from bitgolf.quantize.encoding import Roles, Rules
from bitgolf.quantize.stats import StatsByPath

MAX_DISTANCE_RATIO = 3.0  # times the expected sampling error (see `calibration_mismatch`)
NEGLIGIBLE_DISTANCE = 0.05  # relative distance of Hessians that counts as 0
MAX_DEAD_SHARE = 0.01  # a larger share of columns or outputs without signal is reported
TRIAL_WEIGHTS = 1 << 19  # weights that are encoded to test a setting


def diagnose(model: QuantizedModel) -> list[QuantizationFinding]:
    """The findings of all checks, errors first, then warnings and notes."""
    order = ("error", "warning", "note")
    return sorted(
        (finding for check in (*CHECKS, *code_checks.CHECKS) for finding in check(model)),
        key=lambda finding: order.index(finding.severity),
    )


# ---- the calibration ---------------------------------------------------------------------------------------------


def calibration_mismatch(p: QuantizedModel) -> Iterator[QuantizationFinding]:
    """Stored Hessians that differ from those of the model: a single pass of a loop, other weights, another tokenizer.

    The distance is divided by the expected sampling error, which two halves of a small calibration give. On a model of
    5.3 M parameters (7 layers of width 256, 65,536 stored tokens, 2,048 or 8,192 measured tokens) the ratio was at most
    2.4 for correct statistics. In the worst matrix it was 12 and 24 with permuted tokens, and 7 and 10 with weight
    errors of 0.3 standard deviations. Windows of an eighth of the length, and weight errors of 0.1 standard deviations,
    stay below the limit; only the keys of the stages reveal them.
    """
    if not (p.stats and p.remeasured):
        return
    if odd := sorted(p.stats.keys() ^ p.remeasured[0].keys() | _misshapen(p.stats, p.remeasured[0])):
        yield QuantizationFinding(
            "other-model",
            "error",
            "the calibration belongs to a model with other matrices",
            first_and_count(odd),
            "run again with --from calibrate",
        )
        return
    far = {path: hessian_distance(p.stats, p.remeasured, path) for path in p.stats}
    wrong = sorted((path for path in far if far[path] > MAX_DISTANCE_RATIO), key=lambda path: -far[path])
    if wrong:
        worst = wrong[0]
        ratio = p.stats[worst].hessian.trace() / _mean_hessian(p.remeasured, worst).trace().clamp_min(1e-30)
        message = (
            f"{len(wrong)} of {len(far)} stored Hessians differ from those of the model: the largest distance is "
            f"{far[worst]:.1f} times the sampling error, and the stored trace {ratio:.2f} times the measured one"
        )
        yield QuantizationFinding("other-model", "error", message, first_and_count(wrong), "calibrate the model that is scored, with its loops, averaged weights and tokenizer (run again with --from calibrate)")  # fmt: skip


def hessian_distance(stored: StatsByPath, seen: tuple[StatsByPath, StatsByPath], path: str) -> float:
    """Frobenius distance between stored and measured Hessian, in units of the sampling error expected for their sizes.

    seen: statistics of two halves of the measurement. Returns 0 for negligible distances.
    """
    a, b, mean = seen[0][path].hessian, seen[1][path].hessian, _mean_hessian(seen, path)
    few, many = seen[0][path].tokens + seen[1][path].tokens, max(stored[path].tokens, 1)
    apart, size = float((stored[path].hessian - mean).norm()), float(mean.norm())
    if apart <= NEGLIGIBLE_DISTANCE * size:
        return 0.0
    chance = float((a - b).norm()) * math.sqrt((1 + few / many) / 4)
    return apart / max(chance, NEGLIGIBLE_DISTANCE * size / MAX_DISTANCE_RATIO)


def _mean_hessian(seen: tuple[StatsByPath, StatsByPath], path: str) -> Tensor:
    return (seen[0][path].hessian + seen[1][path].hessian) / 2


def _misshapen(a: StatsByPath, b: StatsByPath) -> set[str]:
    def shape(stats: StatsByPath, path: str) -> tuple[int, int]:
        return len(stats[path].output_fisher), len(stats[path].hessian)

    return {path for path in a.keys() & b.keys() if shape(a, path) != shape(b, path)}


def too_few_calibration_tokens(p: QuantizedModel) -> Iterator[QuantizationFinding]:
    """Fewer calibration tokens than columns, or many inputs or outputs whose statistics are zero."""
    stored = p.stats or {}
    hint = "calibrate on more text: --set calibrate.source.batches=..."
    if few := [path for path, s in stored.items() if s.tokens < len(s.hessian)]:
        s = stored[few[0]]
        yield QuantizationFinding("thin-calibration", "warning", f"{s.tokens:,} tokens are fewer than {len(s.hessian):,} columns, so the Hessian is singular", first_and_count(few), hint)  # fmt: skip
    signals: dict[str, dict[str, Tensor]] = {
        "inputs": {path: s.hessian.diagonal() for path, s in stored.items()},
        "outputs": {path: s.output_fisher for path, s in stored.items()},
    }
    for name, found in signals.items():
        dead = {path: float((x <= 0).float().mean()) for path, x in found.items()}
        if bare := [path for path, share in dead.items() if share > MAX_DEAD_SHARE]:
            worst = max(dead.values())
            yield QuantizationFinding("dead-" + name, "warning", f"the statistics are zero for up to {worst:.1%} of the {name}", first_and_count(bare), hint)  # fmt: skip


# ---- training and storage ----------------------------------------------------------------------------------------


def qat_mismatch(p: QuantizedModel) -> Iterator[QuantizationFinding]:
    """Fake quantization in training that differs from the codecs (see `qat_mismatches`)."""
    for line in qat_mismatches(p.model, p.rules):
        path, _, message = line.partition(": ")
        yield QuantizationFinding(
            "other-rounding",
            "error",
            message,
            path,
            "give the weight transform and the codec the same grid, clip and pruned share",
        )


def drop_unmatched_rules(rules: Rules, roles: Roles) -> tuple[Rules, list[QuantizationFinding]]:
    """The rules that match a parameter, and a finding for each rule that matches none.

    Raises `RecipeError` if a parameter has no rule.
    """
    dead = {i: message for i, (paths, message) in enumerate(match_rules(rules, roles, where="quantize")) if not paths}
    findings = [
        QuantizationFinding("dead-rule", "error", message, f"quantize.{i}", "remove the rule, or put it earlier")
        for i, message in dead.items()
    ]
    return tuple(rule for i, rule in enumerate(rules) if i not in dead), findings


def settings_without_effect(p: QuantizedModel) -> Iterator[QuantizationFinding]:
    """Codec settings whose default value gives exactly the same codes.

    Tested on the smallest tensors of a rule, up to `TRIAL_WEIGHTS` weights but at least one tensor.
    """
    for i, paths in enumerate(assign_to_rules(p.rules, p.roles, where="quantize")):
        use, weights = p.rules[i]["use"], _smallest(p.weights, paths)
        variants = list(_with_default_restored(use))
        stats = EncodingSession().to_device(
            {path: p.stats[path] for path in weights if path in p.stats} if p.stats else {}
        )
        codes = _encode_or_none(use, weights, stats) if variants else None
        for setting, variant in variants:
            if codes is not None and _equal_codes(codes, _encode_or_none(variant, weights, stats)):
                tested = f"{len(weights)} of {len(paths)} tensors tested"
                message = f"{use[setting]!r} gives the same codes as the default ({tested})"
                where = f"quantize.{i}.use.{setting}"
                yield QuantizationFinding("idle-knob", "note", message, where, "remove the setting from the recipe")


def _with_default_restored(use: Spec[Codec]) -> Iterator[tuple[str, Spec[Codec]]]:
    """(path, codec) for each setting that differs from its default: the codec with this setting at its default."""
    for path, node in use.walk():
        for name, (_, default) in schema(node.cls).items():
            setting = f"{path}.{name}" if path else name
            if default is not inspect.Parameter.empty and (variant := use.set(setting, default)) != use:
                yield setting, variant


def _smallest(weights: Mapping[str, Tensor], paths: list[str]) -> dict[str, Tensor]:
    """The smallest tensors with at most `TRIAL_WEIGHTS` weights in all, but at least one."""
    found, total = dict[str, Tensor](), 0
    for path in sorted(paths, key=lambda path: weights[path].numel()):
        total += weights[path].numel()
        if found and total > TRIAL_WEIGHTS:
            break
        found[path] = weights[path]
    return {path: found[path] for path in paths if path in found}


def _encode_or_none(
    use: Spec[Codec], weights: Mapping[str, Tensor], stats: StatsByPath
) -> dict[str, EncodedTensor] | None:
    """The codes by path; None if the codec refuses these weights or statistics."""
    try:
        return dict(use().fit_encode(weights, stats).codes)
    except BitgolfError:
        return None


def _equal_codes(a: dict[str, EncodedTensor], b: dict[str, EncodedTensor] | None) -> bool:
    def flat(codes: dict[str, EncodedTensor]) -> dict[tuple[str, str], tuple[Any, bytes]]:
        return {(path, name): (x.dtype, x.tobytes()) for path, code in codes.items() for name, x in code.items()}

    return b is not None and flat(a) == flat(b)


CHECKS: tuple[Check, ...] = (calibration_mismatch, too_few_calibration_tokens, qat_mismatch, settings_without_effect)
