"""The toy model of the doctor's tests, and what calibration knows of it."""

from __future__ import annotations

import pytest

from bitgolf.model.lm import LM
from bitgolf.quantize.calibration.observe import means, observe
from bitgolf.quantize.stats import Calibration
from helpers.quantized_models import text
from helpers.toy import built, toy_model


@pytest.fixture(scope="module")
def model() -> LM:
    return built(toy_model())


@pytest.fixture(scope="module")
def stored(model: LM) -> Calibration:
    return means(observe(model, text(0)))


@pytest.fixture(scope="module")
def seen(model: LM) -> tuple[Calibration, Calibration]:
    return means(observe(model, text(1, 8))), means(observe(model, text(2, 8)))
