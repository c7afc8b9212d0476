"""Checks of calibration, training and rules: each reports its fault, and nothing without it."""

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
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.lm import LM
from bitgolf.model.parameters import load_weights, parameter_roles
from bitgolf.model.qat import FakeQuant
from bitgolf.model.qat_lowbit import FakeTernary
from bitgolf.quantize.calibration.observe import matrix_stats, observe
from bitgolf.quantize.codecs.codec import Codec, IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.codecs.lowbit import PackedInt4, TernaryGroups
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.diagnose.checks import diagnose, drop_unmatched_rules, hessian_distance
from bitgolf.quantize.stats import MatrixStats, StatsByPath
from helpers.quantized_models import SMALL, SMALL_TRELLIS, UP, findings_by_rule, quantized_model, rule_for_all, text
from helpers.toy import VOCAB, built, toy_model


def test_a_healthy_model_has_no_alarm(model: LM, stored: StatsByPath, seen: tuple[StatsByPath, StatsByPath]) -> None:
    knobs = part(TrellisCodec, bits=4.0, states=8, rate_weight=0.5)
    for codec in (SMALL_TRELLIS, knobs):
        assert diagnose(quantized_model(model, rule_for_all(codec), stored=stored, seen=seen)) == []


# ---- the calibration ---------------------------------------------------------------------------------------------


def other(model: LM, stored: StatsByPath, seen: tuple[StatsByPath, StatsByPath]) -> list[Any]:
    return findings_by_rule(
        quantized_model(model, rule_for_all(part(IntRows, solver=part(GPTQ))), stored=stored, seen=seen)
    ).get("other-model", [])


def test_a_flat_hessian_of_a_looped_model(model: LM) -> None:
    """Hessians of looped layers are sums over all their calls; those of a single call are reported."""
    looped = built(
        toy_model().replace(
            layer_schedule=part(UNet, order=part(LoopedLayers, first_layer=1, last_layer=2, since=(0.3, 0.4)))
        )
    )
    flat = built(toy_model().replace(layer_schedule=part(UNet)))
    same = {path: p.detach() for path, p in looped.named_parameters() if not path.startswith("layer_schedule.")}
    load_weights(flat, {path: same.get(path, p.detach()) for path, p in flat.named_parameters()})
    now = matrix_stats(observe(looped, text(1, 8))), matrix_stats(observe(looped, text(2, 8)))
    assert other(looped, matrix_stats(observe(looped, text(0))), now) == []
    wrong = matrix_stats(observe(flat, text(0)))
    (alarm,) = other(looped, wrong, now)
    assert alarm.severity == "error" and "differ from those of the model" in alarm.message
    assert (
        hessian_distance(wrong, now, "blocks.1.mlp.up.weight") > 3
        and hessian_distance(wrong, now, "blocks.2.mlp.up.weight") > 3
    )


def test_hessians_of_other_weights_and_of_another_tokenizer(
    model: LM, stored: StatsByPath, seen: tuple[StatsByPath, StatsByPath]
) -> None:
    assert other(model, stored, seen) == []
    (alarm,) = other(model, matrix_stats(observe(built(toy_model(), seed=1), text(0))), seen)
    assert "times the sampling error" in alarm.message and alarm.hint
    permuted = torch.randperm(VOCAB, generator=torch.Generator().manual_seed(0))
    assert other(model, matrix_stats(observe(model, permuted[text(0)])), seen)
    larger = {path: s._replace(hessian=1.5 * s.hessian) if path == UP else s for path, s in stored.items()}
    (alarm,) = other(model, larger, seen)
    assert alarm.where == UP and "1 of " in alarm.message


def test_statistics_of_other_matrices(model: LM, stored: StatsByPath, seen: tuple[StatsByPath, StatsByPath]) -> None:
    p = quantized_model(model, rule_for_all(part(IntRows)), stored=stored, seen=seen)
    fewer = {path: s for path, s in stored.items() if path != UP}
    (alarm,) = findings_by_rule(p._replace(stats=fewer))["other-model"]
    assert alarm.where == UP and "other matrices" in alarm.message
    misshapen = {**stored, UP: MatrixStats(torch.eye(7), torch.ones(7), 9999)}
    assert findings_by_rule(p._replace(stats=misshapen))["other-model"][0].where == UP


def test_a_thin_calibration(model: LM, stored: StatsByPath) -> None:
    p = quantized_model(model, rule_for_all(SMALL_TRELLIS), stored=stored)
    few = {path: s._replace(tokens=len(s.hessian) - (path == UP)) for path, s in stored.items()}
    (alarm,) = findings_by_rule(p._replace(stats=few))["thin-calibration"]
    assert alarm.where == UP and "31 tokens are fewer than 32 columns" in alarm.message
    quiet = stored[UP]._replace(hessian=stored[UP].hessian.clone(), output_fisher=stored[UP].output_fisher.clone())
    quiet.hessian.diagonal()[:8] = 0
    quiet.output_fisher[:12] = 0
    found = findings_by_rule(p._replace(stats={**stored, UP: quiet}))
    assert "25.0% of the inputs" in found["dead-inputs"][0].message and found["dead-inputs"][0].where == UP
    assert "25.0% of the outputs" in found["dead-outputs"][0].message


# ---- training and storing ----------------------------------------------------------------------------------------


def viewed(view: Any) -> LM:
    return built(toy_model().edit("block.mlp.linear", append(weight_transforms=view)))


@pytest.mark.parametrize(
    ("view", "codec"),
    [
        (part(FakeQuant, codec=part(IntRows, bits=4, clip=part(MaxClip))), part(PackedInt4)),
        (
            part(FakeQuant, codec=part(IntRows, clip=part(SdClip, k=9.0))),
            part(IntRows, clip=part(SdClip, k=9.0), solver=part(GPTQ)),
        ),
        (part(FakeTernary, group_size=32), part(TernaryGroups, group_size=32)),
    ],
)
def test_training_that_feels_what_is_written(view: Any, codec: Any) -> None:
    model = viewed(view)
    p = quantized_model(
        model,
        part(Rule, where="matrix", use=codec),
        rule_for_all(part(IntRows)),
        stored=matrix_stats(observe(model, text(0))),
    )
    assert "other-rounding" not in findings_by_rule(p)


def test_fake_quantization_of_another_grid() -> None:
    model = viewed(part(FakeQuant, codec=part(IntRows, bits=5, clip=part(MaxClip))))
    p = quantized_model(model, rule_for_all(part(IntRows, bits=6, clip=part(MaxClip))))
    (alarm,) = findings_by_rule(p)["other-rounding"]
    assert alarm.severity == "error" and alarm.where == f"{UP} and 5 more" and "int5" in alarm.message


def test_dead_rules_are_told_and_the_others_go_on() -> None:
    kinds = parameter_roles(build_on_meta(toy_model(), VOCAB))
    fine = SMALL, rule_for_all(part(IntRows))
    assert drop_unmatched_rules(fine, kinds) == (fine, [])
    dead = part(Rule, where="head", use=part(IntRows))
    late = part(Rule, where="matrix", use=part(IntRows))
    alive, (first, second) = drop_unmatched_rules((dead, *fine, late), kinds)
    assert alive == fine and (first.where, second.where) == ("quantize.0", "quantize.3")
    assert "matches no parameter" in first.message and "already taken" in second.message
    with pytest.raises(RecipeError, match="no rule matches"):
        drop_unmatched_rules((SMALL,), kinds)


def test_knobs_that_change_nothing(model: LM, stored: StatsByPath) -> None:
    def idle(codec: Spec[Codec]) -> list[str]:
        return [
            a.where
            for a in findings_by_rule(quantized_model(model, rule_for_all(codec), stored=stored)).get("idle-knob", [])
        ]

    assert idle(part(IntRows, bits=5, min_step=0.13, clip=part(SdClip, k=8.0))) == []
    assert idle(part(IntRows, bits=5, min_step=0.3, clip=part(SdClip, k=8.0))) == ["quantize.1.use.bits"], (
        "the floor decides"
    )
    assert idle(part(IntRows, bits=5, min_step=1e-5)) == ["quantize.1.use.min_step"]
    assert idle(part(IntRows, prune=1e-6)) == ["quantize.1.use.prune"]
    assert idle(part(IntRows, solver=part(GPTQ, damping=0.02))) == []
    assert idle(part(IntRows, solver=part(GPTQ, damping=1e9))) == ["quantize.1.use.solver"], "nothing is fed"
    repair = part(LQER, codec=part(IntRows, bits=4, min_step=1e-5), top_k=2)
    assert idle(repair) == ["quantize.1.use.codec.min_step"]
