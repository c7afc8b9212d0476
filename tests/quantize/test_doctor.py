"""Each alarm fires with its fault and is silent without."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from bitgolf.edits import append
from bitgolf.errors import RecipeError
from bitgolf.grids.clip import MaxClip, SdClip
from bitgolf.grids.scales import LogScale
from bitgolf.model.core import load_weights, roles
from bitgolf.model.depth import UNet
from bitgolf.model.fake import FakeQuant
from bitgolf.model.loops import Loop
from bitgolf.model.lowbit import Ternary
from bitgolf.model.skeleton import LM
from bitgolf.quantize import symptoms
from bitgolf.quantize.allocate import EqualCost, EqualRate
from bitgolf.quantize.codec import Codec, Float, IntRows
from bitgolf.quantize.codes import assign, decode_all, encode_all, report
from bitgolf.quantize.doctor import examine, living, strangeness
from bitgolf.quantize.gptq import Gptq
from bitgolf.quantize.lowbit import Fp4, TernaryGroups
from bitgolf.quantize.lqer import LowRankRepair
from bitgolf.quantize.observe import means, observe
from bitgolf.quantize.patient import Patient
from bitgolf.quantize.stats import Calibration, Stats
from bitgolf.quantize.trellis import Trellis
from bitgolf.rules import Rule
from bitgolf.score.artifact import build_empty
from bitgolf.spec import Spec, part
from toy import VOCAB, built, toy_model

SMALL = part(Rule, where="scale", use=part(Float, dtype="float16"))
UP = "blocks.0.mlp.up.weight"


def text(number: int, rows: int = 24) -> Tensor:
    """Tokens that are not all alike: small numbers are common."""
    generator = torch.Generator().manual_seed(number)
    return (torch.rand(rows, 4, 32, generator=generator) ** 3 * VOCAB).long()


@pytest.fixture(scope="module")
def model() -> LM:
    return built(toy_model())


@pytest.fixture(scope="module")
def stored(model: LM) -> Calibration:
    return means(observe(model, text(0)))


@pytest.fixture(scope="module")
def seen(model: LM) -> tuple[Calibration, Calibration]:
    return means(observe(model, text(1, 8))), means(observe(model, text(2, 8)))


def patient(
    model: LM,
    *rules: Spec[Rule],
    stored: Calibration | None = None,
    seen: tuple[Calibration, Calibration] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Patient:
    """The model, quantized by these rules for all but its scales."""
    own = dict(weights or {path: p.detach() for path, p in model.named_parameters()})
    rules, kinds = (SMALL, *rules), roles(model)
    codes = encode_all(own, kinds, rules, stored)
    decoded = decode_all(codes, {path: tuple(w.shape) for path, w in own.items()}, kinds, rules)
    rows = report(own, codes, kinds, rules)
    return Patient(model, rules, kinds, assign(kinds, rules), own, codes, decoded, rows, stored, seen)


def every(codec: Spec[Codec]) -> Spec[Rule]:
    return part(Rule, where="*", use=codec)


def alarms(p: Patient) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for alarm in examine(p):
        found.setdefault(alarm.rule, []).append(alarm)
    return found


SPENT = part(Trellis, bits=4.0, states=8)


def test_a_healthy_model_has_no_alarm(model: LM, stored: Calibration, seen: tuple[Calibration, Calibration]) -> None:
    knobs = part(Trellis, bits=4.0, states=8, rate=0.5)
    for codec in (SPENT, knobs):
        assert examine(patient(model, every(codec), stored=stored, seen=seen)) == []


# ---- the calibration ---------------------------------------------------------------------------------------------


def other(model: LM, stored: Calibration, seen: tuple[Calibration, Calibration]) -> list[Any]:
    return alarms(patient(model, every(part(IntRows, solve=part(Gptq))), stored=stored, seen=seen)).get(
        "other-model", []
    )


def test_a_flat_hessian_of_a_looped_model(model: LM) -> None:
    """Spec 2.5: the layers of the loop have the sum over their visits."""
    looped = built(toy_model().but(depth=part(UNet, order=part(Loop, first=1, last=2, since=(0.3, 0.4)))))
    flat = built(toy_model().but(depth=part(UNet)))
    same = {path: p.detach() for path, p in looped.named_parameters() if not path.startswith("depth")}
    load_weights(flat, {path: same.get(path, p.detach()) for path, p in flat.named_parameters()})
    now = means(observe(looped, text(1, 8))), means(observe(looped, text(2, 8)))
    assert other(looped, means(observe(looped, text(0))), now) == []
    wrong = means(observe(flat, text(0)))
    (alarm,) = other(looped, wrong, now)
    assert alarm.severity == "error" and "not those of the model that runs" in alarm.message
    assert (
        strangeness(wrong, now, "blocks.1.mlp.up.weight") > 3 and strangeness(wrong, now, "blocks.2.mlp.up.weight") > 3
    )


def test_hessians_of_other_weights_and_of_another_tokenizer(
    model: LM, stored: Calibration, seen: tuple[Calibration, Calibration]
) -> None:
    assert other(model, stored, seen) == []
    (alarm,) = other(model, means(observe(built(toy_model(), seed=1), text(0))), seen)
    assert "times the trace" in alarm.message and alarm.mend
    permuted = torch.randperm(VOCAB, generator=torch.Generator().manual_seed(0))
    assert other(model, means(observe(model, permuted[text(0)])), seen)
    larger = {path: s._replace(hessian=1.5 * s.hessian) if path == UP else s for path, s in stored.items()}
    (alarm,) = other(model, larger, seen)
    assert alarm.place == UP and "1 of " in alarm.message


def test_statistics_of_other_matrices(model: LM, stored: Calibration, seen: tuple[Calibration, Calibration]) -> None:
    p = patient(model, every(part(IntRows)), stored=stored, seen=seen)
    fewer = {path: s for path, s in stored.items() if path != UP}
    (alarm,) = alarms(p._replace(stored=fewer))["other-model"]
    assert alarm.place == UP and "other matrices" in alarm.message
    misshapen = {**stored, UP: Stats(torch.eye(7), torch.ones(7), 9999)}
    assert alarms(p._replace(stored=misshapen))["other-model"][0].place == UP


def test_a_thin_calibration(model: LM, stored: Calibration) -> None:
    p = patient(model, every(SPENT), stored=stored)
    few = {path: s._replace(tokens=len(s.hessian) - (path == UP)) for path, s in stored.items()}
    (alarm,) = alarms(p._replace(stored=few))["thin-calibration"]
    assert alarm.place == UP and "31 tokens are fewer than 32 columns" in alarm.message
    quiet = stored[UP]._replace(hessian=stored[UP].hessian.clone(), outputs=stored[UP].outputs.clone())
    quiet.hessian.diagonal()[:8] = 0
    quiet.outputs[:12] = 0
    found = alarms(p._replace(stored={**stored, UP: quiet}))
    assert "25.0% of the inputs" in found["dead-inputs"][0].message and found["dead-inputs"][0].place == UP
    assert "25.0% of the outputs" in found["dead-outputs"][0].message


# ---- training and storing ----------------------------------------------------------------------------------------


def viewed(view: Any) -> LM:
    return built(toy_model().edit("block.mlp.linear", append(view=view)))


@pytest.mark.parametrize(
    ("view", "codec"),
    [
        (part(FakeQuant, bits=4), part(Fp4)),
        (part(FakeQuant, clip=part(SdClip, k=9.0)), part(IntRows, clip=part(SdClip, k=9.0), solve=part(Gptq))),
        (part(Ternary, group=32), part(TernaryGroups, group=32)),
    ],
)
def test_training_that_feels_what_is_written(view: Any, codec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By settings, and by value where the code itself parted ways: one sign is enough."""
    model = viewed(view)
    p = patient(
        model, part(Rule, where="matrix", use=codec), every(part(IntRows)), stored=means(observe(model, text(0)))
    )
    assert "other-rounding" not in alarms(p)
    original = type(p.codecs[UP]).decode

    def nudged(self: Codec, code: Any, shape: tuple[int, ...]) -> Tensor:
        w = original(self, code, shape)
        w.view(-1)[w.abs().argmax()] *= -1
        return w

    monkeypatch.setattr(type(p.codecs[UP]), "decode", nudged)
    (alarm,) = alarms(p)["other-rounding"]
    assert "bit for bit" in alarm.message and alarm.place == f"{UP} and 5 more"


def test_fake_quantization_of_another_grid() -> None:
    model = viewed(part(FakeQuant, bits=5))
    p = patient(model, every(part(IntRows, bits=6, clip=part(MaxClip))))
    (alarm,) = alarms(p)["other-rounding"]
    assert alarm.severity == "error" and alarm.place == f"{UP} and 5 more" and "int5" in alarm.message


def test_dead_rules_are_told_and_the_others_go_on() -> None:
    kinds = roles(build_empty(toy_model(), VOCAB))
    fine = SMALL, every(part(IntRows))
    assert living(fine, kinds) == (fine, [])
    dead = part(Rule, where="head", use=part(IntRows))
    late = part(Rule, where="matrix", use=part(IntRows))
    alive, (first, second) = living((dead, *fine, late), kinds)
    assert alive == fine and (first.place, second.place) == ("quantize.0", "quantize.3")
    assert "matches nothing" in first.message and "already taken" in second.message
    with pytest.raises(RecipeError, match="no rule takes"):
        living((SMALL,), kinds)


def test_knobs_that_change_nothing(model: LM, stored: Calibration) -> None:
    def idle(codec: Spec[Codec]) -> list[str]:
        return [a.place for a in alarms(patient(model, every(codec), stored=stored)).get("idle-knob", [])]

    assert idle(part(IntRows, bits=5, floor=0.13, clip=part(SdClip, k=8.0))) == []
    assert idle(part(IntRows, bits=5, floor=0.3, clip=part(SdClip, k=8.0))) == ["quantize.1.use.bits"], (
        "the floor decides"
    )
    assert idle(part(IntRows, bits=5, floor=1e-5)) == ["quantize.1.use.floor"]
    assert idle(part(IntRows, prune=1e-6)) == ["quantize.1.use.prune"]
    assert idle(part(IntRows, solve=part(Gptq, damping=0.02))) == []
    assert idle(part(IntRows, solve=part(Gptq, damping=1e9))) == ["quantize.1.use.solve"], "nothing is fed"
    repair = part(LowRankRepair, codec=part(IntRows, bits=4, floor=1e-5), keep=2)
    assert idle(repair) == ["quantize.1.use.codec.floor"]


# ---- the codes ---------------------------------------------------------------------------------------------------


def test_saturation(model: LM) -> None:
    def found(codec: Spec[Codec]) -> list[Any]:
        return alarms(patient(model, every(codec))).get("saturated", [])

    for fine in (part(IntRows, clip=part(MaxClip)), part(Fp4), part(IntRows, bits=4, clip=part(SdClip, k=2.7))):
        assert found(fine) == []
    (alarm,) = found(part(IntRows, clip=part(SdClip, k=1.5)))
    assert "beyond the last of 63 levels" in alarm.message and "a wider clip" in alarm.mend
    assert found(part(IntRows, bits=2, clip=part(SdClip, k=0.7))) == [], "three levels: the ends are what there is"
    assert found(part(LowRankRepair, codec=part(IntRows, clip=part(SdClip, k=1.5))))
    p = patient(model, every(SPENT), stored=means(observe(model, text(0))))
    p.codes[UP]["codes"][:1] = 127
    assert alarms(p)["saturated"][0].place == UP


def test_steps_at_the_floor(model: LM) -> None:
    assert "floor" not in alarms(patient(model, every(part(IntRows, clip=part(MaxClip)))))
    weights = {path: 0.5 * p.detach() / p.detach().abs().max() for path, p in model.named_parameters()}
    (alarm,) = alarms(patient(model, every(part(IntRows, clip=part(MaxClip), floor=1 / 31)), weights=weights))["floor"]
    assert "100% of the rows" in alarm.message and alarm.mend == "a smaller floor"
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
    even = part(Trellis, bits=4.0, states=1, rate=0.0, allocate=part(EqualRate))
    (alarm,) = alarms(patient(model, every(even), stored=heavy))["uneven-spending"]
    assert alarm.place == UP and f"feed {UP} (" in alarm.message and "; starve " in alarm.message
    p = patient(model, every(even), stored=heavy)
    moves, saved = symptoms.bits_to_move(p)
    assert moves[UP] == max(moves.values()) > 2 and saved > 0.8
    elements = {r.path: r.elements for r in p.reports}
    assert sum(moves[path] * elements[path] for path in moves) == pytest.approx(0, abs=1e-6 * sum(elements.values()))
    fair = part(Trellis, bits=4.0, states=1, rate=0.0, allocate=part(EqualCost))
    moves, saved = symptoms.bits_to_move(patient(model, every(fair), stored=heavy))
    assert saved < 0.1 and max(map(abs, moves.values())) < 1


def test_what_other_bits_would_save_is_what_they_save(model: LM, stored: Calibration) -> None:
    """Two matrices alike but for a factor of 16 in what they matter: a bit each way leaves 8 of 17 parts."""
    p = patient(model, every(part(IntRows, bits=8)), stored=stored)
    down = "blocks.1.mlp.up.weight"
    twin = {UP: stored[UP], down: stored[UP]._replace(outputs=16 * stored[UP].outputs)}
    decoded = {**p.decoded, down: p.weights[down] + p.decoded[UP] - p.weights[UP]}
    moves, saved = symptoms.bits_to_move(p._replace(stored=twin, decoded=decoded))
    assert moves == pytest.approx({UP: -1, down: 1}, abs=1e-3) and saved == pytest.approx(1 - 8 / 17, rel=1e-3)


def test_an_artifact_of_other_weights(model: LM) -> None:
    p = patient(model, every(part(IntRows)))
    assert list(symptoms.not_as_packed(p.decoded, dict(p.decoded))) == []
    nudged = p.decoded[UP].clone()
    nudged[0, 0] += 1e-6
    (alarm,) = symptoms.not_as_packed(p.decoded, {**p.decoded, UP: nudged})
    assert alarm.place == UP and alarm.severity == "error"
    (alarm,) = symptoms.not_as_packed(p.decoded, {path: w for path, w in p.decoded.items() if path != UP})
    assert alarm.place == UP


def test_costs_are_those_of_the_statistics(model: LM, stored: Calibration) -> None:
    p = patient(model, every(part(IntRows, bits=4)), stored=stored)
    error = p.decoded[UP] - p.weights[UP]
    s = stored[UP]
    by_hand = 0.5 * math.fsum(float(s.outputs[i] * error[i] @ s.hessian @ error[i]) for i in range(len(error)))
    assert p.costs()[UP] == pytest.approx(by_hand, rel=1e-4) and p.costs().keys() == stored.keys()
