"""Each alarm fires with its fault and is silent without."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bitgolf.config.edits import append
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.grids.clip import MaxClip, SdClip
from bitgolf.model.build import build_on_meta
from bitgolf.model.layer_orders import Loop
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.lm import LM
from bitgolf.model.parameters import load_weights, roles
from bitgolf.model.qat import FakeQuant
from bitgolf.model.qat_lowbit import Ternary
from bitgolf.quantize.calibration.observe import means, observe
from bitgolf.quantize.codecs.codec import Codec, IntRows
from bitgolf.quantize.codecs.gptq import Gptq
from bitgolf.quantize.codecs.lowbit import Fp4, TernaryGroups
from bitgolf.quantize.codecs.lqer import LowRankRepair
from bitgolf.quantize.codecs.trellis import Trellis
from bitgolf.quantize.diagnose.checks import examine, living, strangeness
from bitgolf.quantize.stats import Calibration, Stats
from helpers.quantized_models import SMALL, SPENT, UP, alarms, every, patient, text
from helpers.toy import VOCAB, built, toy_model


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
        (part(FakeQuant, codec=part(IntRows, bits=4, clip=part(MaxClip))), part(Fp4)),
        (
            part(FakeQuant, codec=part(IntRows, clip=part(SdClip, k=9.0))),
            part(IntRows, clip=part(SdClip, k=9.0), solve=part(Gptq)),
        ),
        (part(Ternary, group=32), part(TernaryGroups, group=32)),
    ],
)
def test_training_that_feels_what_is_written(view: Any, codec: Any) -> None:
    model = viewed(view)
    p = patient(
        model, part(Rule, where="matrix", use=codec), every(part(IntRows)), stored=means(observe(model, text(0)))
    )
    assert "other-rounding" not in alarms(p)


def test_fake_quantization_of_another_grid() -> None:
    model = viewed(part(FakeQuant, codec=part(IntRows, bits=5, clip=part(MaxClip))))
    p = patient(model, every(part(IntRows, bits=6, clip=part(MaxClip))))
    (alarm,) = alarms(p)["other-rounding"]
    assert alarm.severity == "error" and alarm.place == f"{UP} and 5 more" and "int5" in alarm.message


def test_dead_rules_are_told_and_the_others_go_on() -> None:
    kinds = roles(build_on_meta(toy_model(), VOCAB))
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
