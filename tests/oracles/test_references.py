"""Small models of published systems against reference forward passes: logits, loss and all gradients, in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.parse import apply_assignment
from bitgolf.config.spec import Spec
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.lm import LM
from bitgolf.model.part import Scheduled
from bitgolf.recipes import get_recipe
from bitgolf.recipes.recipe import Recipe
from bitgolf.runtime.progress import TrainingProgress
from helpers.small_recipes import VOCAB, small_recipe
from helpers.toy import built
from oracles import reference
from oracles.reference import BOS

FLAT = tuple(range(11))
LOOPED = (0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 6, 7, 8, 9, 10)
WITHOUT_REPEATS = (0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12)
Reference = Callable[[reference.Params, Tensor], Tensor]

CASES: dict[str, tuple[float, bool, Reference]] = {
    # recipe and case -> (fraction of the run, whether departures from the original are undone, reference)
    "pr675": (1.0, False, reference.pr675),
    "pr1090": (1.0, False, partial(reference.pr1090, masked=True)),
    "pr1090 as published": (1.0, True, partial(reference.pr1090, masked=False)),
    "pr1512 before fake quantization": (0.5, False, partial(reference.pr1512, masked=True, fake=False)),
    "pr1512": (1.0, False, partial(reference.pr1512, masked=True, fake=True)),
    "pr1512 as published": (1.0, True, partial(reference.pr1512, masked=False, fake=False)),
    "pr1493 before the loop": (0.34, False, partial(reference.pr1493, visits=FLAT)),
    "pr1493": (0.36, False, partial(reference.pr1493, visits=LOOPED)),
    "pr1855 before the loop": (0.34, False, partial(reference.pr1855, visits=FLAT)),
    "pr1855": (0.36, False, partial(reference.pr1855, visits=LOOPED)),
    "pr1204 before the repeats": (0.43, False, partial(reference.pr1204, visits=WITHOUT_REPEATS, masked=True)),
    "pr1204 as published": (0.45, True, partial(reference.pr1204, visits=range(13), masked=False)),
}


def undone(recipe: Spec[Recipe]) -> Spec[Recipe]:
    """The recipe with its departures from the original undone."""
    for words in (recipe().published or {})["departures"].values():
        for assignment in words.split():
            recipe = apply_assignment(recipe, assignment)
    return recipe


def model_of(name: str, progress: float, undo: bool) -> LM:
    recipe = get_recipe(name.split()[0])
    model = built(small_recipe(undone(recipe) if undo else recipe)().model, vocab=VOCAB).double().train()
    for part in model.modules():
        if isinstance(part, Scheduled):
            part.update(
                TrainingProgress(step=round(100 * progress), max_steps=100, elapsed_seconds=0.0, max_seconds=0.0)
            )
    return model


def tokens() -> tuple[Tensor, Tensor]:
    """Two rows of 40 ids, and their targets. Documents start inside both rows and are longer than a segment."""
    ids = torch.randint(2, VOCAB, (2, 41), generator=torch.Generator().manual_seed(1))
    for row, place in ((0, 0), (0, 23), (1, 3), (1, 4), (1, 39)):
        ids[row, place] = BOS
    return ids[:, :-1], ids[:, 1:]


def nats(z: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood over all tokens, in the precision of the logits."""
    return (z.logsumexp(-1) - z.gather(-1, targets[..., None])[..., 0]).mean()


@pytest.mark.parametrize("case", CASES)
def test_logits_loss_and_gradients(case: str) -> None:
    progress, undo, forward = CASES[case]
    model, (ids, targets) = model_of(case, progress, undo), tokens()
    own = dict(model.named_parameters())
    params = {path: p.detach().clone().requires_grad_() for path, p in own.items()}
    expected, found = forward(params, ids), model(ids)
    assert (found - expected).abs().max() < 1e-9
    assert expected.std() > 0.1, "nearly constant logits would make the comparison meaningless"

    objective = get_recipe(case.split()[0])["train.objective"](BuildContext(vocab=VOCAB))
    loss = objective(model.hidden(ForwardContext(ids)), targets, model.logits)
    assert abs(loss.item() - nats(expected, targets).item()) < 1e-6, "the objective computes in float32"

    nats(expected, targets).backward()
    nats(found, targets).backward()
    unused = ("blocks.6.", "blocks.7.") if "before the repeats" in case else ()
    for path, p in params.items():
        ours, theirs = (torch.zeros_like(p) if g is None else g for g in (own[path].grad, p.grad))
        assert path.startswith(unused) or theirs.any(), f"the reference gradient of {path} is zero"
        assert (ours - theirs).norm() <= 1e-7 * theirs.norm(), path
