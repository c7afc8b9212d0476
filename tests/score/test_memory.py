"""Scoring and adaptation at full size in bounded memory, on fake tensors."""

from __future__ import annotations

import pytest

from bitgolf.config.build_context import Place
from bitgolf.recipes import get
from bitgolf.score.execution.batch_size import MOST_TOKENS, bytes_per_token, fitting, graph_bytes_per_token
from helpers.live_tensors import LiveTensors
from helpers.scoring_steps import faked, steps

CARD = 80e9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pr1855"])
def test_every_batch_of_scoring_fits_a_card(name: str) -> None:
    recipe, found = get(name), dict[str, LiveTensors]()
    for step in steps(recipe, 8192):
        with LiveTensors() as found[step.name]:
            step.run()
    assert list(found) == [f"{name} {what}" for what in ("contiguous", "sliding", "phased", "phased: descent")]
    assert all(a.peak_bytes < 0.75 * CARD and a.largest_bytes < 0.05 * CARD for a in found.values())
    with faked() as fake, fake:
        model = recipe["model"](Place(vocab=8192))
        assert found[f"{name} contiguous"].peak_bytes < MOST_TOKENS * bytes_per_token(model)
        assert fitting(bytes_per_token(model), 2048, int(CARD)).tokens == MOST_TOKENS
        assert fitting(graph_bytes_per_token(model), 2048, int(CARD), most=2 * MOST_TOKENS).tokens == 2 * MOST_TOKENS
        assert 2048 <= fitting(graph_bytes_per_token(model), 2048, int(24e9)).tokens < MOST_TOKENS
