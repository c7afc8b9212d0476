"""Memory of scoring and adaptation at full size stays within limits, measured on fake tensors."""

from __future__ import annotations

import pytest

from bitgolf.config.build_context import BuildContext
from bitgolf.recipes import get_recipe
from bitgolf.score.execution.batch_size import (
    MAX_TOKENS,
    batch_size_for_memory,
    inference_bytes_per_token,
    training_bytes_per_token,
)
from helpers.live_tensors import MemoryTracker
from helpers.scoring_steps import fake_device, steps

CARD = 80e9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pr1855"])
def test_every_batch_of_scoring_fits_a_card(name: str) -> None:
    recipe, found = get_recipe(name), dict[str, MemoryTracker]()
    for step in steps(recipe, 8192):
        with MemoryTracker() as found[step.name]:
            step.run()
    assert list(found) == [f"{name} {what}" for what in ("contiguous", "sliding", "phased", "phased: descent")]
    assert all(a.peak_bytes < 0.75 * CARD and a.largest_bytes < 0.05 * CARD for a in found.values())
    with fake_device() as fake, fake:
        model = recipe().model(BuildContext(vocab=8192))
        assert found[f"{name} contiguous"].peak_bytes < MAX_TOKENS * inference_bytes_per_token(model)
        assert batch_size_for_memory(inference_bytes_per_token(model), 2048, int(CARD)).tokens == MAX_TOKENS
        assert (
            batch_size_for_memory(training_bytes_per_token(model), 2048, int(CARD), max_tokens=2 * MAX_TOKENS).tokens
            == 2 * MAX_TOKENS
        )
        assert 2048 <= batch_size_for_memory(training_bytes_per_token(model), 2048, int(24e9)).tokens < MAX_TOKENS
