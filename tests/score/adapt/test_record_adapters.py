"""Adapters of the records after #1855: which there are, how many numbers they have, and what they read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitgolf.model.batched_lora import BatchedLoRA, adapter_sites
from bitgolf.model.build import build_on_meta
from bitgolf.recipes import get_recipe
from helpers.small_recipes import VOCAB, small_recipe
from helpers.toy import built

NO_QV, NO_K = ("head", "k", "mixer", "mlp"), ("head", "q", "v", "mixer", "mlp")
ALL = ("head", "q", "k", "v", "mixer", "mlp")


@pytest.mark.parametrize(("targets", "numbers"), [(ALL, 6_963_200), (NO_QV, 4_526_080), (NO_K, 5_918_720)])
def test_numbers_of_a_document_at_full_size(targets: tuple[str, ...], numbers: int) -> None:
    """Rank 80, a pair of factors for each of 17 visits of a layer; what is left out has none at all."""
    recipe = get_recipe("pr1855")
    model = build_on_meta(recipe().model, 8192)
    count = 0
    for name in targets:
        visits = 1 if name == "head" else 17
        widths = {512 + (site.fan_out or 512) for site in adapter_sites(model, name)}
        (width,) = widths
        count += visits * 80 * width
    assert count == numbers


@pytest.mark.parametrize("targets", [ALL, NO_QV, NO_K])
def test_adapters_that_are_left_out_do_not_exist(targets: tuple[str, ...]) -> None:
    """Neither do they have values that stay zero; and with B = 0 the model is unchanged."""
    model = built(small_recipe(get_recipe("pr1855"))().model, vocab=VOCAB)
    ids = torch.randint(2, VOCAB, (2, 12), generator=torch.Generator().manual_seed(0))
    plain = model(ids)
    adapters = BatchedLoRA(model, 2, targets, rank=2)
    assert torch.equal(model(ids), plain)
    attached = [name for name in ALL if any(len(site.adapters) for site in adapter_sites(model, name))]
    assert sorted(attached) == sorted(targets)
    assert len(adapters.leaves) == 2 * (1 + 17 * (len(targets) - 1))
    adapters.detach()


def test_the_adapter_beside_attention_does_not_read_its_output() -> None:
    """It reads the normalized input of attention: without any output of attention, its own is the same."""
    model = built(small_recipe(get_recipe("pr1855"))().model, vocab=VOCAB)
    adapters = BatchedLoRA(model, 1, ("mixer",), rank=2)
    with torch.no_grad():
        for leaf in adapters.leaves:
            leaf.normal_(generator=torch.Generator().manual_seed(1))
    ids, seen = torch.arange(2, 14)[None], list[Tensor]()
    first = adapter_sites(model, "mixer")[0].adapters[-1]
    first.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))
    before = model(ids)
    with torch.no_grad():
        for block in model.blocks:
            block.get_parameter("mixer.out.weight").zero_()
    after = model(ids)
    assert torch.equal(seen[0], seen[1]) and seen[0].any() and not torch.equal(before, after)
    adapters.detach()
