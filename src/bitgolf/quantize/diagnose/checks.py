"""The quantization doctor: whether calibration, training and recipe fit the model that is stored. One small function for
each alarm; those that look at codes alone are in `symptoms`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from bitgolf.config.rules import assign_to_rules, matches
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

MAX_DISTANCE_RATIO = 3.0  # times what chance explains (see `calibration_mismatch`)
NEGLIGIBLE_DISTANCE = 0.05  # a distance of Hessians that is none
MAX_DEAD_SHARE = 0.01  # a larger share of columns or outputs without any signal is worth a word
TRIAL_WEIGHTS = 1 << 19  # weights on which a knob is turned


def diagnose(patient: QuantizedModel) -> list[QuantizationFinding]:
    """All alarms, errors first."""
    order = ("error", "warning", "note")
    return sorted(
        (a for run in (*CHECKS, *code_checks.CHECKS) for a in run(patient)),
        key=lambda alarm: order.index(alarm.severity),
    )


# ---- the calibration ---------------------------------------------------------------------------------------------


def calibration_mismatch(p: QuantizedModel) -> Iterator[QuantizationFinding]:
    """Hessians that are not those of the model that runs: a loop seen flat (spec, 2.5), other weights, another tokenizer.

    The distance is compared with what chance explains, estimated from two halves of a small calibration. On a model of
    5.3 M parameters (7 layers of 256, 65,536 tokens stored, 2,048 or 8,192 seen) it was at most 2.4 times that where
    nothing was wrong, and in the worst matrix 12 and 24 times with permuted tokens, 7 and 10 times with weights that
    were off by 0.3 of their spread. Windows of an eighth, or weights off by 0.1, stay below: only the keys of the
    stages catch them.
    """
    if not (p.stats and p.remeasured):
        return
    if odd := sorted(p.stats.keys() ^ p.remeasured[0].keys() | _misshapen(p.stats, p.remeasured[0])):
        yield QuantizationFinding(
            "other-model",
            "error",
            "the calibration is of a model with other matrices",
            first_and_count(odd),
            "--from calibrate",
        )
        return
    far = {path: hessian_distance(p.stats, p.remeasured, path) for path in p.stats}
    wrong = sorted((path for path in far if far[path] > MAX_DISTANCE_RATIO), key=lambda path: -far[path])
    if wrong:
        worst = wrong[0]
        ratio = p.stats[worst].hessian.trace() / _mean_hessian(p.remeasured, worst).trace().clamp_min(1e-30)
        message = f"{len(wrong)} of {len(far)} stored Hessians are not those of the model that runs: the worst is {far[worst]:.1f} times farther than chance explains, with {ratio:.2f} times the trace"
        yield QuantizationFinding("other-model", "error", message, first_and_count(wrong), "calibrate the model that is scored: its loops, its averaged weights, its tokenizer (--from calibrate)")  # fmt: skip


def hessian_distance(stored: StatsByPath, seen: tuple[StatsByPath, StatsByPath], path: str) -> float:
    """How many times farther apart stored and seen Hessian are than samples of their sizes would be by chance."""
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
    stored = p.stats or {}
    hint = "calibrate on more text: --set calibrate.source.batches=..."
    if few := [path for path, s in stored.items() if s.tokens < len(s.hessian)]:
        s = stored[few[0]]
        yield QuantizationFinding("thin-calibration", "warning", f"{s.tokens:,} tokens are fewer than {len(s.hessian):,} columns: the Hessian knows nothing of the rest", first_and_count(few), hint)  # fmt: skip
    signals: dict[str, dict[str, Tensor]] = {
        "inputs": {path: s.hessian.diagonal() for path, s in stored.items()},
        "outputs": {path: s.output_fisher for path, s in stored.items()},
    }
    for name, found in signals.items():
        dead = {path: float((x <= 0).float().mean()) for path, x in found.items()}
        if bare := [path for path, share in dead.items() if share > MAX_DEAD_SHARE]:
            worst = max(dead.values())
            yield QuantizationFinding("dead-" + name, "warning", f"calibration saw no signal in up to {worst:.1%} of the {name}", first_and_count(bare), hint)  # fmt: skip


# ---- training and storing ----------------------------------------------------------------------------------------


def qat_mismatch(p: QuantizedModel) -> Iterator[QuantizationFinding]:
    """Training rounded otherwise than the codecs do."""
    for line in qat_mismatches(p.model, p.rules):
        path, _, cause = line.partition(": ")
        yield QuantizationFinding(
            "other-rounding", "error", cause, path, "give view and codec the same grid, clip and pruning"
        )


def drop_unmatched_rules(rules: Rules, roles: Roles) -> tuple[Rules, list[QuantizationFinding]]:
    """The rules that take something, and an alarm for each other one. Raises where a parameter has no rule at all."""
    dead = {i: cause for i, (paths, cause) in enumerate(matches(rules, roles, where="quantize")) if not paths}
    alarms = [
        QuantizationFinding("dead-rule", "error", cause, f"quantize.{i}", "remove it, or put it earlier")
        for i, cause in dead.items()
    ]
    return tuple(rule for i, rule in enumerate(rules) if i not in dead), alarms


def settings_without_effect(p: QuantizedModel) -> Iterator[QuantizationFinding]:
    """Settings of a codec that change not one code when they are set back to their default.

    Tried on the smallest matrices of a rule, as many as have half a million weights.
    """
    for i, paths in enumerate(assign_to_rules(p.rules, p.roles, where="quantize")):
        use, weights = p.rules[i]["use"], _smallest(p.weights, paths)
        turned = list(_with_default_restored(use))
        known = EncodingSession().to_device(
            {path: p.stats[path] for path in weights if path in p.stats} if p.stats else {}
        )
        written = _encode_or_none(use, weights, known) if turned else None
        for knob, variant in turned:
            if written is not None and _equal_codes(written, _encode_or_none(variant, weights, known)):
                cause = f"{use[knob]!r} changes nothing against the default, in the {len(weights)} of {len(paths)} tensors that were tried"
                yield QuantizationFinding("idle-knob", "note", cause, f"quantize.{i}.use.{knob}", "leave it out")


def _with_default_restored(use: Spec[Codec]) -> Iterator[tuple[str, Spec[Codec]]]:
    """Path of each setting that is not its default, and the codec with that one set back."""
    for path, node in use.walk():
        for name, (_, default) in schema(node.cls).items():
            knob = f"{path}.{name}" if path else name
            if default is not inspect.Parameter.empty and (variant := use.set(knob, default)) != use:
                yield knob, variant


def _smallest(weights: Mapping[str, Tensor], paths: list[str]) -> dict[str, Tensor]:
    """The smallest tensors, at least one."""
    found, total = dict[str, Tensor](), 0
    for path in sorted(paths, key=lambda path: weights[path].numel()):
        total += weights[path].numel()
        if found and total > TRIAL_WEIGHTS:
            break
        found[path] = weights[path]
    return {path: found[path] for path in paths if path in found}


def _encode_or_none(
    use: Spec[Codec], weights: Mapping[str, Tensor], known: StatsByPath
) -> dict[str, EncodedTensor] | None:
    """The codes; None where this codec cannot write these weights."""
    try:
        return dict(use().fit_encode(weights, known).codes)
    except BitgolfError:
        return None


def _equal_codes(a: dict[str, EncodedTensor], b: dict[str, EncodedTensor] | None) -> bool:
    def flat(codes: dict[str, EncodedTensor]) -> dict[tuple[str, str], tuple[Any, bytes]]:
        return {(path, name): (x.dtype, x.tobytes()) for path, code in codes.items() for name, x in code.items()}

    return b is not None and flat(a) == flat(b)


CHECKS: tuple[Check, ...] = (calibration_mismatch, too_few_calibration_tokens, qat_mismatch, settings_without_effect)
