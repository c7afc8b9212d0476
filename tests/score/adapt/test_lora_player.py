"""The player of per-document LoRA without the referee: what it learns, from which targets, and by which optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitgolf.runtime.device import select_device
from bitgolf.score.adapt.lora_player import LoRAPlayer
from bitgolf.score.adapt.per_row_adam import PerRowAdam
from bitgolf.score.player import ScoringBatch
from helpers.document_lora import LOOPED, lora
from helpers.toy import VOCAB, built


def shown(rows: int = 3, *, length: int = 8, asked: int = 5) -> tuple[ScoringBatch, Tensor]:
    tokens = torch.randint(2, VOCAB, (rows, length), generator=torch.Generator().manual_seed(3))
    where = torch.zeros(rows, length).bool()
    where[:, length - asked :] = True
    targets = torch.randint(2, VOCAB, (rows * asked,), generator=torch.Generator().manual_seed(4))
    return ScoringBatch(tokens, where, torch.zeros(rows).bool()), targets


def player(**changes: Any) -> LoRAPlayer:
    return LoRAPlayer(built(LOOPED).double(), VOCAB, select_device(), lora(**changes))


def test_what_is_not_predicted_here_is_learned_all_the_same() -> None:
    block, targets = shown()
    predicted, observed, copied = player(steps=2), player(steps=2), player(steps=2)
    predicted.predict(block)
    copied.predict(ScoringBatch(*shown(length=6)[0]))
    for p in (predicted, observed, copied):
        p.observe(block, targets)
        assert (p.adapters.values - predicted.adapters.values).abs().max() < 1e-12
    assert (predicted.adapters.values != predicted.adapters.initial).any(1).all()


def test_two_steps_are_two_steps() -> None:
    block, targets = shown()
    one, two = player(), player(steps=2)
    two.observe(block, targets)
    one.observe(block, targets)
    assert (one.adapters.values - two.adapters.values).abs().max() > 1e-3
    one.observe(block, targets)
    assert (one.adapters.values - two.adapters.values).abs().max() < 1e-12


def test_only_what_leads_to_adapters_keeps_a_graph() -> None:
    p, seen = player(target_modules=("head",)), list[bool]()
    p.model.norm.register_forward_hook(lambda _, x, y: seen.append(y.requires_grad))
    p.observe(*shown())
    assert seen == [False] and (p.adapters.values != p.adapters.initial).any(1).all()


def test_one_step_is_that_of_adam_on_the_mean_of_each_row() -> None:
    block, targets = shown()
    ours, theirs = player(lr=0.01), player(lr=0.01)
    ours.observe(block, targets)
    leaves = [nn.Parameter(leaf.detach().clone()) for leaf in theirs.adapters.leaves]
    assert not theirs.predict(block).requires_grad, "logits passed to the referee must be detached"
    logits = theirs.model(block.tokens)[:, 3:].flatten(0, 1)
    loss = nn.functional.cross_entropy(logits, targets, reduction="none").view(3, 5).mean(1).sum()
    for leaf, grad in zip(leaves, torch.autograd.grad(loss, theirs.adapters.leaves), strict=True):
        leaf.grad = grad
    torch.optim.Adam(leaves, lr=0.01, betas=(0.9, 0.95), eps=1e-10).step()
    for leaf, own in zip(leaves, ours.adapters.leaves, strict=True):
        assert (leaf - own).abs().max() < 1e-9


def test_who_was_asked_nothing_or_has_come_to_an_end_learns_nothing() -> None:
    block, targets = shown()
    p = player()
    block.target_mask[1] = False
    targets = targets[:10]
    targets[-1] = 1  # BOS: the document of the last row ends
    logits = p.predict(block)
    assert logits.shape == (10, VOCAB)
    p.observe(block, targets)
    assert (p.adapters.values != p.adapters.initial).any(1).tolist() == [True, False, False]
    assert p.adam.steps[:, 0].tolist() == [1, 0, 0]


def test_a_document_starts_with_nothing_learned_and_no_moments() -> None:
    """`reset` sets adapters, moments and step counts of the selected rows to their initial values."""
    block, targets = shown()
    p = player()
    p.observe(block, targets)
    p.reset(torch.tensor([True, False, False]))
    for state in (p.adapters.values - p.adapters.initial, p.adam.exp_avg, p.adam.exp_avg_sq, p.adam.steps):
        assert (state != 0).any(1).tolist() == [False, True, True]
    p.predict(block._replace(reset_rows=torch.tensor([False, True, False])))
    assert torch.equal(p.adapters.values[1], p.adapters.initial) and p.adam.steps[:, 0].tolist() == [0, 0, 1]


def test_warm_rows_keep_a_until_all_is_renewed() -> None:
    block, targets = shown()
    p = player(keep_a=True)
    p.observe(block, targets)
    p.observe(block, targets)  # a second step: at the first one B is zero, so A has no gradient
    learned = p.adapters.values.clone()
    p.reset(torch.ones(3).bool())
    inner = p.adapters.is_factor_a
    assert torch.equal(p.adapters.values[:, inner], learned[:, inner]) and not p.adapters.values[:, ~inner].any()
    assert (learned != p.adapters.initial)[:, inner].any() and not p.adam.steps.any()
    p.reset_all()
    assert torch.equal(p.adapters.values, p.adapters.initial.expand(3, -1))


def test_between_blocks_the_bare_model_may_be_taught_in_batches_of_any_size() -> None:
    block, targets = shown()
    p = player()
    p.observe(block, targets)
    before = p.predict(block)
    with p.without_adapters() as model:
        model(torch.ones(7, 4, dtype=torch.int64)).square().mean().backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= 0.1 * weight.grad if weight.grad is not None else 0
    after = p.predict(block)
    assert (after - before).abs().max() > 1e-4
    p.reset_all()
    assert (p.predict(block) - after).abs().max() > 1e-4
    p.close()
    p.close()
    assert not [path for path, _ in p.model.named_modules() if ".adapters." in path or "_adapters." in path]


@pytest.mark.parametrize(("betas", "decay"), [((0.9, 0.95), 0.0), ((0.0, 0.99), 0.5)])
def test_rows_that_start_at_different_times_are_each_an_adam_of_its_own(
    betas: tuple[float, float], decay: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    rows = [nn.Parameter(row.clone()) for row in values]
    method = lora(lr=0.1, betas=betas, weight_decay=decay)
    own = PerRowAdam(values, lr=method.lr, betas=method.betas, eps=method.eps, weight_decay=method.weight_decay)
    theirs = [torch.optim.AdamW([row], lr=0.1, betas=betas, eps=1e-10, weight_decay=decay) for row in rows]
    for learns in ([1, 0, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1]):
        grad = torch.randn(3, 5, generator=generator, dtype=torch.float64)
        own.step(grad, torch.tensor(learns).bool())
        for i in np.flatnonzero(learns):
            rows[i].grad = grad[i]
            theirs[i].step()
        assert (values - torch.stack(list(rows))).abs().max() < 1e-12
