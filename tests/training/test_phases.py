"""Phases: a switch must change the loss, and warm-up leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append
from bitgolf.config.spec import part
from bitgolf.errors import BitgolfError
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import ResidualStreamPart
from bitgolf.model.part import Scheduled
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.graphs import warm_up_graphs
from bitgolf.training.phases import progress_at
from bitgolf.training.trainer import Trainer
from helpers.toy import toy_recipe
from helpers.toy_training import make_trainer, same


class Late(ResidualStreamPart, Scheduled):
    """Scales half of the channels by a learned number from the fraction `since` of the run on; never if `dead`."""

    roles = {"weight": "scale"}

    def __init__(self, context: BuildContext, /, *, since: float = 0.5, dead: bool = False) -> None:
        super().__init__()
        self.since, self.dead, self.on = since, dead, True
        self.weight = nn.Parameter(torch.tensor([2.0]))

    @property
    def phase_starts(self) -> tuple[float, ...]:
        return (self.since,)

    def update(self, progress: TrainingProgress) -> None:
        self.on = progress.fraction >= self.since and not self.dead

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        return torch.cat([x[..., :16], self.weight * x[..., 16:]], -1) if self.on else x


def trainer(data: Path, *, dead: bool = False, graph: bool = False) -> Trainer:
    recipe = toy_recipe(steps=8).edit("model.block", append(pre_block=part(Late, dead=dead)))
    made = make_trainer(data, recipe)
    if graph:
        torch._dynamo.reset()
        compiled = torch.compile(made.loss_module, fullgraph=True, dynamic=False, backend="eager")
        made.plan = made.plan._replace(compute_loss=compiled)
    return made


def run(trainer: Trainer, first: int, last: int) -> list[float]:
    return [float(trainer.step(step, TrainingProgress(step, 8, 0.0, 0.0))) for step in range(first, last)]


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_a_phase_begins_at_its_moment(data: Path, graph: bool) -> None:
    made = trainer(data, graph=graph)
    late = [m for m in made.loss_module.modules() if isinstance(m, Late)]
    start = [m.weight.item() for m in late]
    run(made, 0, 4)
    assert not any(m.on for m in late) and [m.weight.item() for m in late] == start, "an idle part must not move"
    run(made, 4, 8)
    assert all(m.on for m in late) and all(m.weight.item() != s for m, s in zip(late, start, strict=True))


def test_the_graph_follows_the_phase(data: Path) -> None:
    assert run(trainer(data, graph=True), 0, 8) == pytest.approx(run(trainer(data), 0, 8), rel=1e-5)


def test_a_phase_that_changes_nothing_stops_the_run(data: Path) -> None:
    made = trainer(data, dead=True)
    run(made, 0, 4)
    with pytest.raises(BitgolfError, match=r"the phase at 0\.5 of the run does not change the loss"):
        run(made, 4, 5)


def test_a_rehearsal_proves_nothing_and_puts_the_phase_back(data: Path) -> None:
    made = trainer(data, dead=True)
    run(made, 0, 1)
    with made.phases.rehearsal():
        made.phases.advance(TrainingProgress(7, 8, 0.0, 0.0), lambda: 0.0)
        assert made.phases.never_reached == []
    assert made.phases.never_reached == [0.5] and made.phases.last_change is None
    with pytest.raises(BitgolfError, match=r"the phase at 0\.5 of the run does not change the loss"):
        run(made, 4, 5)


def test_a_parameter_that_no_phase_uses_is_still_an_error(data: Path) -> None:
    made = trainer(data, dead=True)
    with made.phases.rehearsal(), pytest.raises(BitgolfError, match=r"no gradient reached"):
        run(made, 6, 7)


def test_warming_up_every_phase_changes_nothing(data: Path) -> None:
    cold = trainer(data)
    start, losses, end = cold.clone_state(), run(cold, 0, 8), cold.clone_state()
    warm = trainer(data)
    seen: list[bool] = []
    late = next(m for m in warm.loss_module.modules() if isinstance(m, Late))
    late.register_forward_hook(lambda *_: seen.append(late.on))
    warm_up_graphs(warm, 2)
    assert set(seen) == {False, True} and same(warm.state_dict(), start)
    assert run(warm, 0, 8) == losses and same(warm.state_dict(), end)


def test_the_probe_draws_no_random_numbers(data: Path) -> None:
    """The loss depends on the random state, so a probe that advanced it would change later losses."""
    made = trainer(data)
    run(made, 0, 4)
    before = torch.get_rng_state()
    batch = tuple(map(torch.from_numpy, made.batches.load_rows(0, 0, 1)))
    assert made.probe_loss(*batch) == made.probe_loss(*batch)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("moment", "steps", "seconds"), [(0.35, 100, 0.0), (0.5, 7, 0.0), (0.9, 0, 600.0), (0.0, 0, 9.0)]
)
def test_a_representative_moment_lies_within_its_phase(moment: float, steps: int, seconds: float) -> None:
    assert progress_at(moment, steps, seconds).fraction >= moment
