"""Fixtures: the toy model for the tests of the checks, and its calibration statistics."""

from __future__ import annotations

import pytest

from bitgolf.model.lm import LM
from bitgolf.quantize.calibration.observe import matrix_stats, observe
from bitgolf.quantize.stats import StatsByPath
from helpers.quantized_models import text
from helpers.toy import built, toy_model


@pytest.fixture(scope="module")
def model() -> LM:
    return built(toy_model())


@pytest.fixture(scope="module")
def stored(model: LM) -> StatsByPath:
    return matrix_stats(observe(model, text(0)))


@pytest.fixture(scope="module")
def seen(model: LM) -> tuple[StatsByPath, StatsByPath]:
    return matrix_stats(observe(model, text(1, 8))), matrix_stats(observe(model, text(2, 8)))
