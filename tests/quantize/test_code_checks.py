"""What codes tell: each alarm fires with its fault and is silent without."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip, SdClip
from bitgolf.grids.scales import LogScale
from bitgolf.model.lm import LM
from bitgolf.quantize.calibration.observe import means, observe
from bitgolf.quantize.codecs.bit_allocation import EqualCost, EqualRate
from bitgolf.quantize.codecs.codec import Codec, IntRows
from bitgolf.quantize.codecs.lowbit import Fp4
from bitgolf.quantize.codecs.lqer import LowRankRepair
from bitgolf.quantize.codecs.trellis import Trellis
from bitgolf.quantize.diagnose import code_checks
from bitgolf.quantize.stats import Calibration
from helpers.quantized_models import SPENT, UP, alarms, every, patient, text


def test_saturation(model: LM) -> None:
    def found(codec: Spec[Codec]) -> list[Any]:
        return alarms(patient(model, every(codec))).get("saturated", [])

    for fine in (part(IntRows, clip=part(MaxClip)), part(Fp4), part(IntRows, bits=4, clip=part(SdClip, k=2.7))):
        assert found(fine) == []
    (alarm,) = found(part(IntRows, clip=part(SdClip, k=1.5)))
    assert "beyond the last of 63 levels" in alarm.message and "a wider clip" in alarm.mend
    assert found(part(IntRows, bits=2, clip=part(SdClip, k=0.1))) == [], "of three levels the ends hold a lot"
    assert found(part(LowRankRepair, codec=part(IntRows, clip=part(SdClip, k=1.5))))
    p = patient(model, every(SPENT), stored=means(observe(model, text(0))))
    p.codes[UP]["codes"][:1] = 127
    assert alarms(p)["saturated"][0].place == UP


def test_steps_at_the_floor(model: LM) -> None:
    assert "floor" not in alarms(patient(model, every(part(IntRows, clip=part(MaxClip)))))
    weights = {path: 0.5 * p.detach() / p.detach().abs().max() for path, p in model.named_parameters()}
    (alarm,) = alarms(patient(model, every(part(IntRows, clip=part(MaxClip), floor=1 / 31)), weights=weights))["floor"]
    assert "100% of the rows" in alarm.message and alarm.mend == "a smaller floor"
    tiny = {path: 1e-6 * w for path, w in weights.items()}
    assert "floor" in alarms(patient(model, every(part(Fp4)), weights=tiny))
    weights[UP] = weights[UP].clone()
    weights[UP][::2] = 0.0
    assert "floor" not in alarms(patient(model, every(part(IntRows)), weights=weights)), "rows of zeros have no step"


def test_rows_that_are_lost(model: LM, stored: Calibration) -> None:
    weights = {path: p.detach().clone() for path, p in model.named_parameters()}
    weights[UP][0] = 0.0
    floor = part(IntRows, floor=0.1)
    assert "lost-rows" not in alarms(patient(model, every(floor), weights=weights))
    weights[UP][1:4] *= 0.01 / weights[UP].abs().max()
    (alarm,) = alarms(patient(model, every(floor), weights=weights))["lost-rows"]
    assert alarm.place == UP and "3 of 48 rows" in alarm.message
    for factor, silent in ((0.0, True), (1e6, False)):
        outputs = stored[UP].outputs.clone()
        outputs[:4] *= factor
        known = {**stored, UP: stored[UP]._replace(outputs=outputs)}
        found = alarms(patient(model, every(floor), weights=weights, stored=known))
        assert ("lost-rows" not in found) is silent, "a row that does not matter may go"


def test_scales_at_the_end_of_their_code(model: LM) -> None:
    codec = part(IntRows, scales=part(LogScale), clip=part(MaxClip))
    weights = {path: p.detach().clone() for path, p in model.named_parameters()}
    assert "scale-range" not in alarms(patient(model, every(codec), weights=weights))
    weights[UP][5] *= 7.3 / weights[UP][5].abs().max()  # a step of 0.2355, of which the code goes to 0.239
    (alarm,) = alarms(patient(model, every(codec), weights=weights))["scale-range"]
    assert alarm.place == f"{UP}:scales"
    p = patient(model, every(SPENT), stored=means(observe(model, text(0))))
    assert "scale-range" not in alarms(p)
    p.codes[UP]["rows"][3] = 255
    assert alarms(p)["scale-range"][0].place == f"{UP}:rows"


def test_bits_in_the_wrong_place(model: LM, stored: Calibration) -> None:
    """One matrix that matters 64 times more, at bits like all others."""
    heavy = {**stored, UP: stored[UP]._replace(outputs=64 * stored[UP].outputs)}
    p = patient(model, every(part(IntRows, bits=8)), stored=stored)
    after = {path: p.costs()[path] * 4.0**-move / p.weights[path].numel() for path, move in code_checks.bits_to_move(p)[0].items() if abs(move) < 2.9}  # fmt: skip
    assert len(after) > 8 and max(after.values()) == pytest.approx(min(after.values()), rel=1e-6), "one cost a weight"
    even = part(Trellis, bits=4.0, states=1, rate=0.0, allocate=part(EqualRate))
    (alarm,) = alarms(patient(model, every(even), stored=heavy))["uneven-spending"]
    assert alarm.place == UP and f"feed {UP} (" in alarm.message and "; starve " in alarm.message
    p = patient(model, every(even), stored=heavy)
    moves, saved = code_checks.bits_to_move(p)
    assert moves[UP] == max(moves.values()) > 2 and saved > 0.8
    elements = {r.path: r.elements for r in p.reports}
    assert sum(moves[path] * elements[path] for path in moves) == pytest.approx(0, abs=1e-6 * sum(elements.values()))
    fair = part(Trellis, bits=4.0, states=1, rate=0.0, allocate=part(EqualCost))
    moves, saved = code_checks.bits_to_move(patient(model, every(fair), stored=heavy))
    assert saved < 0.1 and max(map(abs, moves.values())) < 1


def test_what_other_bits_would_save_is_what_they_save(model: LM, stored: Calibration) -> None:
    """Two matrices alike but for a factor of 16 in what they matter: a bit each way leaves 8 of 17 parts."""
    p = patient(model, every(part(IntRows, bits=8)), stored=stored)
    down = "blocks.1.mlp.up.weight"
    twin = {UP: stored[UP], down: stored[UP]._replace(outputs=16 * stored[UP].outputs)}
    decoded = {**p.decoded, down: p.weights[down] + p.decoded[UP] - p.weights[UP]}
    moves, saved = code_checks.bits_to_move(p._replace(stored=twin, decoded=decoded))
    assert moves == pytest.approx({UP: -1, down: 1}, abs=1e-3) and saved == pytest.approx(1 - 8 / 17, rel=1e-3)


def test_an_artifact_of_other_weights(model: LM) -> None:
    p = patient(model, every(part(IntRows)))
    assert list(code_checks.not_as_packed(p.decoded, dict(p.decoded))) == []
    nudged = p.decoded[UP].clone()
    nudged[0, 0] += 1e-6
    (alarm,) = code_checks.not_as_packed(p.decoded, {**p.decoded, UP: nudged})
    assert alarm.place == UP and alarm.severity == "error"
    (alarm,) = code_checks.not_as_packed(p.decoded, {path: w for path, w in p.decoded.items() if path != UP})
    assert alarm.place == UP


def test_costs_are_those_of_the_statistics(model: LM, stored: Calibration) -> None:
    p = patient(model, every(part(IntRows, bits=4)), stored=stored)
    error = p.decoded[UP] - p.weights[UP]
    s = stored[UP]
    by_hand = 0.5 * math.fsum(float(s.outputs[i] * error[i] @ s.hessian @ error[i]) for i in range(len(error)))
    assert p.costs()[UP] == pytest.approx(by_hand, rel=1e-4) and p.costs().keys() == stored.keys()
