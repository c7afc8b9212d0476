"""Checks of encoded matrices: each reports its fault, and nothing without it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip, SdClip
from bitgolf.grids.scales import LogScale
from bitgolf.model.lm import LM
from bitgolf.quantize.calibration.observe import matrix_stats, observe
from bitgolf.quantize.codecs.bit_allocation import EqualCost, EqualRate
from bitgolf.quantize.codecs.codec import Codec, IntRows
from bitgolf.quantize.codecs.lowbit import PackedInt4
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.diagnose import code_checks
from bitgolf.quantize.stats import StatsByPath
from helpers.quantized_models import SMALL_TRELLIS, UP, findings_by_rule, quantized_model, rule_for_all, text


@pytest.mark.parametrize("end", [-127, 127])
def test_saturation_at_either_end_of_a_trellis(model: LM, end: int) -> None:
    p = quantized_model(model, rule_for_all(SMALL_TRELLIS), stored=matrix_stats(observe(model, text(0))))
    p.encoded[UP]["codes"][:1] = end
    assert findings_by_rule(p)["saturated"][0].where == UP


def test_saturation(model: LM) -> None:
    def found(codec: Spec[Codec]) -> list[Any]:
        return findings_by_rule(quantized_model(model, rule_for_all(codec))).get("saturated", [])

    for fine in (part(IntRows, clip=part(MaxClip)), part(PackedInt4), part(IntRows, bits=4, clip=part(SdClip, k=2.7))):
        assert found(fine) == []
    (alarm,) = found(part(IntRows, clip=part(SdClip, k=1.5)))
    assert "clipped at the ends of 63 levels" in alarm.message and "a wider clip" in alarm.hint
    assert found(part(IntRows, bits=2, clip=part(SdClip, k=0.1))) == [], "of three levels the ends hold a lot"
    assert found(part(LQER, codec=part(IntRows, clip=part(SdClip, k=1.5))))


def test_steps_at_the_floor(model: LM) -> None:
    assert "floor" not in findings_by_rule(quantized_model(model, rule_for_all(part(IntRows, clip=part(MaxClip)))))
    weights = {path: 0.5 * p.detach() / p.detach().abs().max() for path, p in model.named_parameters()}
    (alarm,) = findings_by_rule(
        quantized_model(model, rule_for_all(part(IntRows, clip=part(MaxClip), min_step=1 / 31)), weights=weights)
    )["floor"]
    assert "100% of the rows" in alarm.message and alarm.hint == "use a smaller min_step"
    tiny = {path: 1e-6 * w for path, w in weights.items()}
    assert "floor" in findings_by_rule(quantized_model(model, rule_for_all(part(PackedInt4)), weights=tiny))
    weights[UP] = weights[UP].clone()
    weights[UP][::2] = 0.0
    assert "floor" not in findings_by_rule(quantized_model(model, rule_for_all(part(IntRows)), weights=weights)), (
        "rows of zeros have no step"
    )


def test_rows_that_are_lost(model: LM, stored: StatsByPath) -> None:
    weights = {path: p.detach().clone() for path, p in model.named_parameters()}
    weights[UP][0] = 0.0
    floor = part(IntRows, min_step=0.1)
    assert "lost-rows" not in findings_by_rule(quantized_model(model, rule_for_all(floor), weights=weights))
    weights[UP][1:4] *= 0.01 / weights[UP].abs().max()
    (alarm,) = findings_by_rule(quantized_model(model, rule_for_all(floor), weights=weights))["lost-rows"]
    assert alarm.where == UP and "3 of 48 rows" in alarm.message
    for factor, silent in ((0.0, True), (1e6, False)):
        outputs = stored[UP].output_fisher.clone()
        outputs[:4] *= factor
        known = {**stored, UP: stored[UP]._replace(output_fisher=outputs)}
        found = findings_by_rule(quantized_model(model, rule_for_all(floor), weights=weights, stored=known))
        assert ("lost-rows" not in found) is silent, "a row that does not matter may go"


def test_scales_at_the_end_of_their_code(model: LM) -> None:
    codec = part(IntRows, scales=part(LogScale), clip=part(MaxClip))
    weights = {path: p.detach().clone() for path, p in model.named_parameters()}
    assert "scale-range" not in findings_by_rule(quantized_model(model, rule_for_all(codec), weights=weights))
    weights[UP][5] *= 7.3 / weights[UP][5].abs().max()  # a step of 0.2355, of which the code goes to 0.239
    (alarm,) = findings_by_rule(quantized_model(model, rule_for_all(codec), weights=weights))["scale-range"]
    assert alarm.where == f"{UP}:scales"
    p = quantized_model(model, rule_for_all(SMALL_TRELLIS), stored=matrix_stats(observe(model, text(0))))
    assert "scale-range" not in findings_by_rule(p)
    p.encoded[UP]["rows"][3] = 255
    assert findings_by_rule(p)["scale-range"][0].where == f"{UP}:rows"


def test_bits_in_the_wrong_place(model: LM, stored: StatsByPath) -> None:
    """One matrix is 64 times as sensitive as the others, but has the same bits per weight."""
    heavy = {**stored, UP: stored[UP]._replace(output_fisher=64 * stored[UP].output_fisher)}
    p = quantized_model(model, rule_for_all(part(IntRows, bits=8)), stored=stored)
    after = {path: p.costs()[path] * 4.0**-move / p.weights[path].numel() for path, move in code_checks.optimal_reallocation(p)[0].items() if abs(move) < 2.9}  # fmt: skip
    assert len(after) > 8 and max(after.values()) == pytest.approx(min(after.values()), rel=1e-6), "one cost a weight"
    even = part(TrellisCodec, bits=4.0, states=1, rate_weight=0.0, allocation=part(EqualRate))
    (alarm,) = findings_by_rule(quantized_model(model, rule_for_all(even), stored=heavy))["uneven-spending"]
    assert alarm.where == UP and f"; more bits for {UP} (" in alarm.message and "; fewer bits for " in alarm.message
    p = quantized_model(model, rule_for_all(even), stored=heavy)
    moves, saved = code_checks.optimal_reallocation(p)
    assert moves[UP] == max(moves.values()) > 2 and saved > 0.8
    elements = {r.path: r.elements for r in p.reports}
    assert sum(moves[path] * elements[path] for path in moves) == pytest.approx(0, abs=1e-6 * sum(elements.values()))
    fair = part(TrellisCodec, bits=4.0, states=1, rate_weight=0.0, allocation=part(EqualCost))
    moves, saved = code_checks.optimal_reallocation(quantized_model(model, rule_for_all(fair), stored=heavy))
    assert saved < 0.1 and max(map(abs, moves.values())) < 1


def test_what_other_bits_would_save_is_what_they_save(model: LM, stored: StatsByPath) -> None:
    """Two matrices differ by a factor of 16 in sensitivity: moving one bit leaves 8/17 of the cost."""
    p = quantized_model(model, rule_for_all(part(IntRows, bits=8)), stored=stored)
    down = "blocks.1.mlp.up.weight"
    twin = {UP: stored[UP], down: stored[UP]._replace(output_fisher=16 * stored[UP].output_fisher)}
    decoded = {**p.decoded, down: p.weights[down] + p.decoded[UP] - p.weights[UP]}
    moves, saved = code_checks.optimal_reallocation(p._replace(stats=twin, decoded=decoded))
    assert moves == pytest.approx({UP: -1, down: 1}, abs=1e-3) and saved == pytest.approx(1 - 8 / 17, rel=1e-3)


def test_an_artifact_of_other_weights(model: LM) -> None:
    p = quantized_model(model, rule_for_all(part(IntRows)))
    assert list(code_checks.artifact_mismatch(p.decoded, dict(p.decoded))) == []
    nudged = p.decoded[UP].clone()
    nudged[0, 0] += 1e-6
    (alarm,) = code_checks.artifact_mismatch(p.decoded, {**p.decoded, UP: nudged})
    assert alarm.where == UP and alarm.severity == "error"
    (alarm,) = code_checks.artifact_mismatch(p.decoded, {path: w for path, w in p.decoded.items() if path != UP})
    assert alarm.where == UP


def test_costs_are_those_of_the_statistics(model: LM, stored: StatsByPath) -> None:
    p = quantized_model(model, rule_for_all(part(IntRows, bits=4)), stored=stored)
    error = p.decoded[UP] - p.weights[UP]
    s = stored[UP]
    by_hand = 0.5 * math.fsum(float(s.output_fisher[i] * error[i] @ s.hessian @ error[i]) for i in range(len(error)))
    assert p.costs()[UP] == pytest.approx(by_hand, rel=1e-4) and p.costs().keys() == stored.keys()
