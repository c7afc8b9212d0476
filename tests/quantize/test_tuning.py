"""Tuning of float parameters after rounding: it lowers the divergence, changes nothing else, and is repeatable."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitgolf.config.rules import Rule
from bitgolf.config.spec import part
from bitgolf.data.manifest import load_manifest
from bitgolf.grids.clip import MaxClip
from bitgolf.model.lm import LM
from bitgolf.model.parameters import parameter_roles
from bitgolf.quantize.calibration.sources import CalibrationContext
from bitgolf.quantize.codecs.codec import Float, IntRows
from bitgolf.quantize.encoding import decode_model, encode_model
from bitgolf.quantize.tuning import FloatTuning
from helpers.toy import built, toy_model
from helpers.toy_training import make_data

RULES = (
    part(Rule, where="scale", use=part(Float, dtype="float32")),
    part(Rule, where="*", use=part(IntRows, bits=3, clip=part(MaxClip))),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def subject(data: Path) -> CalibrationContext:
    manifest = load_manifest(data)
    return CalibrationContext(built(toy_model(), vocab=manifest.vocab), data, 24, manifest.bos)


def rounded(model: LM) -> tuple[dict[str, Tensor], list[str]]:
    """The weights as stored, and the paths of the scales."""
    roles, state = parameter_roles(model), dict(model.named_parameters())
    shapes = {path: tuple(w.shape) for path, w in state.items()}
    decoded = decode_model(encode_model(state, roles, RULES), shapes, roles, RULES)
    return decoded, [path for path, role in roles.items() if role == "scale"]


def test_the_divergence_falls_and_only_the_chosen_parameters_change(subject: CalibrationContext) -> None:
    decoded, paths = rounded(subject.model)
    before = {path: w.detach().clone() for path, w in subject.model.named_parameters()}
    stored = {path: w.clone() for path, w in decoded.items() if path not in paths}
    done: list[tuple[int, int]] = []
    found = FloatTuning(steps=20, lr=0.01).tune(subject, decoded, paths, lambda *at: done.append(at))
    assert 0 < found.after < 0.95 * found.before
    assert found.values.keys() == set(paths) and done == [(n, 20) for n in range(1, 21)]
    assert all(torch.equal(w, before[path]) for path, w in subject.model.named_parameters())
    assert all(torch.equal(decoded[path], w) for path, w in stored.items())
    assert any((value - before[path]).abs().max() > 1e-3 for path, value in found.values.items())


def test_equal_settings_give_equal_bits(subject: CalibrationContext) -> None:
    decoded, paths = rounded(subject.model)

    def tuned(seed: int) -> dict[str, Tensor]:
        own = {path: w.clone() for path, w in decoded.items()}
        return FloatTuning(steps=3, lr=0.01, seed=seed).tune(subject, own, paths).values

    first, again, other = tuned(1), tuned(1), tuned(2)
    assert first and all(torch.equal(first[path], again[path]) for path in paths)
    assert any(not torch.equal(first[path], other[path]) for path in paths)


def test_steps_that_do_harm_are_not_kept(subject: CalibrationContext) -> None:
    decoded, paths = rounded(subject.model)
    found = FloatTuning(steps=5, lr=20.0).tune(subject, decoded, paths)
    assert found.after > found.before and found.values == {}
