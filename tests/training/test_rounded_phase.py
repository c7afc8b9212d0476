"""The last phase on rounded weights: what the forward pass reads, what the optimizer changes, resumption, a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.data.prefetch import HostBatch
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.pipeline.training import rounded_weights
from bitgolf.quantize.calibration.calibrate import Calibrate
from bitgolf.quantize.calibration.sources import TrainingText
from bitgolf.quantize.codecs.codec import Float
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.rounded_phase import RoundedPhase
from bitgolf.recipes.identity import training_key
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.execution_plan import LossFunction
from bitgolf.training.graphs import warm_up_graphs
from bitgolf.training.rounded_weights import RoundedWeights
from bitgolf.training.trainer import Trainer
from helpers.examples import examples
from helpers.toy import toy_recipe
from helpers.toy_run import run_again, run_toy
from helpers.toy_training import make_trainer, same

FLOATS = part(Rule, where="scale", use=part(Float, dtype="float16"))
RULES = (FLOATS, part(Rule, where="*", use=part(TrellisCodec, bits=2.0, states=4)))
CALIBRATE = part(Calibrate, source=part(TrainingText, batches=1, rows=2))
PHASE = part(RoundedPhase, quantize=RULES, calibrate=CALIBRATE, since=0.5, every=3)
STEPS = 8


def at(step: int) -> TrainingProgress:
    return TrainingProgress(step, STEPS, 0.0, 0.0)


def run(trainer: Trainer, first: int, last: int) -> list[float]:
    return [float(trainer.step(step, at(step))) for step in range(first, last)]


def rounding(data: Path, phase: Spec[RoundedPhase] = PHASE) -> Trainer:
    trainer = make_trainer(data, toy_recipe(steps=STEPS).set("model.layers", 1))
    trainer.round_weights(rounded_weights(phase(), trainer, data))
    return trainer


def values(trainer: Trainer) -> dict[str, Tensor]:
    return {path: p.detach().clone() for path, p in trainer.params.items()}


@pytest.fixture(scope="module")
def plain(data: Path) -> list[float]:
    """Losses of a run without the phase."""
    return run(make_trainer(data, toy_recipe(steps=STEPS).set("model.layers", 1)), 0, STEPS)


def test_nothing_changes_before_the_phase(data: Path, plain: list[float]) -> None:
    losses = run(rounding(data), 0, STEPS)
    assert plain[:4] == losses[:4] and plain[4] != losses[4]


def test_forward_and_backward_read_the_stored_weights(data: Path) -> None:
    """At an encoding, bit for bit; in between, weights plus the errors of the last one. Floats are never changed."""
    trainer, seen = rounding(data), dict[int, dict[str, Tensor]]()
    phase, rounded, backward = PHASE(), trainer.rounded, trainer.backward
    assert rounded
    step, before, stored = 0, values(trainer), dict(rounded.stored())

    def watching(batch: HostBatch, rows: slice, compute_loss: LossFunction) -> Tensor:
        seen[step] = values(trainer)
        return backward(batch, rows, compute_loss)

    vars(trainer)["backward"] = watching
    before, stored = values(trainer), dict[str, Tensor]()
    for step in range(STEPS):
        before, errors = values(trainer), {path: e.clone() for path, e in rounded.errors.items()}
        stored = dict(rounded.stored())
        run(trainer, step, step + 1)
        want = before
        if step in (4, 6):  # the first step of the phase, and the multiples of 3
            want = before | stored
        elif step > 4:
            want = {path: w + errors[path] if path in errors else w for path, w in before.items()}
        assert all(torch.equal(seen[step][path], w) for path, w in want.items()), step
    assert (
        stored.keys()
        == rounded.errors.keys()
        == {path for path in before if path.endswith("weight")}
        - {path for path, role in trainer.loss_module.roles().items() if role == "scale"}
    )
    assert any((stored[path] - before[path]).abs().max() > 1e-3 for path in stored)
    assert phase.every == 3


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(st.integers(-400, 400).map(lambda n: n / 100), min_size=1, max_size=6),
    st.integers(1, 4),
    st.floats(0, 0.9),
    st.lists(st.integers(-100, 100).map(lambda n: n / 100), min_size=6, max_size=6),
)
def test_weights_keep_their_bits_and_get_the_gradient(
    start: list[float], every: int, since: float, changes: list[float]
) -> None:
    """Rounded to integers, with gradient descent on half of the square: w <- w - 0.1 (w + e)."""
    w = nn.Parameter(torch.tensor(start))
    rounded = RoundedWeights(since, every, {"w": w}, lambda: {"w": w.detach().round()})
    error = torch.zeros_like(w)
    for step, change in enumerate(changes):
        before = w.detach().clone()
        rounded.update(TrainingProgress(step, len(changes), 0.0, 0.0))
        if step / len(changes) < since:
            want = before
        elif step % every == 0 or not error.any():
            want = before.round()
            error = want - before
        else:
            want = before + error
        assert torch.equal(w, want)
        (gradient,) = torch.autograd.grad(0.5 * (w * w).sum(), w)
        assert torch.equal(gradient, want)
        rounded.restore()
        assert torch.equal(w, before)
        with torch.no_grad():
            w -= 0.1 * gradient + change


def test_a_resumed_run_and_a_warm_one_have_the_same_bits(data: Path) -> None:
    whole = rounding(data)
    losses = run(whole, 0, STEPS)
    first = rounding(data)
    warm_up_graphs(first, 2)
    assert run(first, 0, 6) == losses[:6]  # the errors of step 4 are used at step 5
    half = first.clone_state()
    assert any(name.startswith("rounded/") and bool(t.any()) for name, t in half.items())
    second = rounding(data)
    second.load_state_dict(half)
    assert run(second, 6, STEPS) == losses[6:] and same(second.state_dict(), whole.state_dict())
    third = rounding(data, PHASE.replace(every=100))
    third.load_state_dict(half)
    run(third, 6, 7)
    assert not same(third.state_dict(), whole.state_dict())


def test_rounding_that_changes_no_loss_stops_training(data: Path) -> None:
    trainer = make_trainer(data, toy_recipe(steps=STEPS))
    trainer.round_weights(RoundedWeights(0.5, 3, dict(trainer.params), lambda: {}))
    with pytest.raises(BitgolfError, match=r"the phase at 0\.5 of the run does not change the loss"):
        run(trainer, 0, STEPS)


def test_a_run_has_the_phase_and_other_codecs_do_not_train_it_again(tmp_path: Path, data: Path) -> None:
    recipe = toy_recipe(steps=STEPS).replace(rounded_phase=PHASE, proof=None)
    recipe = recipe.set("score", recipe["score"][:1])
    run_toy(tmp_path / "run", recipe, data)

    def events(kind: str) -> list[dict[str, float]]:
        lines = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
        return [line for line in lines if line["event"] == kind]

    (phase,) = events("phase")
    assert phase["phase_start"] == 0.5 and phase["loss_before"] < phase["loss_after"]
    run_again(tmp_path / "run", "quantize.1.use.bits=6")
    assert len(events("step")) == STEPS
    keys = [training_key(r) for r in (recipe, recipe.set("rounded_phase.every", 4), recipe.set("rounded_phase", None))]
    assert keys[0] != keys[1] and keys[2] == training_key(toy_recipe(steps=STEPS))


def test_settings_that_round_nothing_or_lack_statistics_are_errors() -> None:
    with pytest.raises(RecipeError, match="nothing to round"):
        RoundedPhase(quantize=(part(Rule, where="*", use=part(Float, dtype="float16")),))
    with pytest.raises(RecipeError, match="needs calibration"):
        RoundedPhase(quantize=RULES)
