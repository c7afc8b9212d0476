"""Sharded Muon, SOAP, Contra-Muon and EMA-Nesterov on two and four processes (gloo, CPU), against one with the whole batch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.optim.adam import Adam
from bitgolf.optim.contra_muon import ContraMuon
from bitgolf.optim.ema_nesterov import EMANesterov
from bitgolf.optim.frozen import Frozen
from bitgolf.optim.muon import Muon
from bitgolf.optim.muon_transforms import NorMuon, RowNorm
from bitgolf.optim.optimizer import Optimizer
from bitgolf.optim.orthogonalize import NewtonSchulz
from bitgolf.optim.soap import SOAP
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.graphs import warm_up_graphs
from helpers.process_groups import run_as_script, run_in_processes
from helpers.toy import toy_recipe
from helpers.toy_training import make_trainer, same

STEPS, HALF, BATCH = 4, 2, 4
SHAPES = {
    **{f"square.{i}": (8, 8) for i in range(3)},  # three: on two or four processes there is a blank
    **{f"tall.{i}": (16, 8) for i in range(5)},
    "bank": (2, 16, 8),  # a parameter that is a stack already
    "lone": (4, 8),  # fewer matrices than processes
    "scale": (8,),
    "idle": (3,),
}
ROLES = {path: path if path in ("scale", "idle") else "matrix" for path in SHAPES}


Type = Literal["float32", "bfloat16"]


MUON = part(
    Muon,
    weight_decay=0.1,
    pre_orthogonalize=(part(RowNorm),),
    post_orthogonalize=(part(NorMuon),),
    orthogonalize=part(NewtonSchulz, precision="float32"),
)
ROUGH = MUON.replace(orthogonalize=part(NewtonSchulz, precision="bfloat16"))
UNCLIPPED = 1e12
VARIANTS = {
    "SOAP": MUON.replace(pre_orthogonalize=(part(SOAP, refresh_interval=2),)),
    "Contra-Muon": MUON.replace(orthogonalize=part(ContraMuon, base=part(NewtonSchulz, precision="float32"))),
}


def rules(muon: Spec[Muon], shard: Literal["auto", "off"], reduce: Type) -> tuple[Spec[Rule], ...]:
    return (
        part(Rule, where="matrix", use=muon.replace(shard=shard, reduce_dtype=reduce, cautious_weight_decay=True)),
        part(Rule, where="scale", use=part(Adam, lr=0.05)),
        part(Rule, where="idle", use=part(Frozen)),
    )


class Run:
    """An optimizer with synthetic gradients, the mean over the four samples of a batch."""

    def __init__(
        self,
        distributed: DistributedContext,
        *,
        muon: Spec[Muon] = MUON,
        shard: Literal["auto", "off"] = "auto",
        reduce: Type = "float32",
        clip: float = 0.5,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.params = {path: nn.Parameter(torch.randn(s, generator=generator)) for path, s in SHAPES.items()}
        self.optimizer = Optimizer(self.params, ROLES, rules(muon, shard, reduce), distributed)
        self.distributed, self.clip, self.norms = distributed, clip, list[Tensor]()

    def steps(self, first: int, last: int) -> Run:
        share = BATCH // self.distributed.world_size
        for step in range(first, last):
            for i, (path, p) in enumerate(self.params.items()):
                generator = torch.Generator().manual_seed(100 * step + i)
                samples = (16 * torch.randn((BATCH, *p.shape), generator=generator)).round() * 3.0**i  # exact sums
                mine = samples[self.distributed.rank * share : (self.distributed.rank + 1) * share].mean(0)
                p.grad = None if path == "idle" else mine
            self.optimizer.reduce_gradients()
            self.norms.append(self.optimizer.clip_grad_norm(self.clip))
            self.optimizer.step(TrainingProgress(step, STEPS, 0.0, 0.0), 1 - step / STEPS)
            self.optimizer.zero_grad()
        return self

    def result(self) -> dict[str, Tensor]:
        params = {f"params/{path}": p.detach().clone() for path, p in self.params.items()}
        state = {f"state/{name}": t.contiguous().clone() for name, t in self.optimizer.state_dict().items()}
        return {**params, **state, "norms": torch.stack(self.norms)}


def resumed(
    distributed: DistributedContext, at_half: dict[str, Tensor], muon: Spec[Muon] = MUON, clip: float = 0.5
) -> Run:
    """A new run that continues from the state of another after half of the steps."""
    run = Run(distributed, muon=muon, clip=clip)
    with torch.no_grad():
        for path, p in run.params.items():
            p.copy_(at_half[f"params/{path}"])
    state = {name.removeprefix("state/"): t for name, t in at_half.items() if name.startswith("state/")}
    run.optimizer.load_state_dict(state)
    return run.steps(HALF, STEPS)


def momenta(run: Run) -> int:
    """Number of momentum elements on this process."""
    states = [state for group in run.optimizer.sharded for state in group.states]
    return sum(t.numel() for state in states for t in state["momentum"])


# ---- the processes -----------------------------------------------------------------------------------------------


def work(distributed: DistributedContext, out: Path, data: Path) -> None:
    half = Run(distributed).steps(0, HALF)
    at_half = half.result()
    results = {
        "half": at_half,
        "whole": half.steps(HALF, STEPS).result(),
        "resumed": resumed(distributed, at_half).result(),
        "rough": Run(distributed, muon=ROUGH).steps(0, STEPS).result(),
        "replicated": Run(distributed, shard="off").steps(0, STEPS).result(),
        "half sums": Run(distributed, reduce="bfloat16").steps(0, STEPS).result(),
        "counts": {"momentum": torch.tensor(momenta(half))},
    }
    for name, muon in VARIANTS.items():
        half = Run(distributed, muon=muon, clip=UNCLIPPED).steps(0, HALF)
        results[f"{name} half"] = at_half = half.result()
        results[name] = half.steps(HALF, STEPS).result()
        results[f"{name} resumed"] = resumed(distributed, at_half, muon, UNCLIPPED).result()
    if distributed.world_size == 2:
        results["ahead"] = trained_ahead(distributed, data)
        results["warm"] = {"up": torch.tensor(warm_up_changes_nothing(distributed, data))}
    for name, result in results.items():
        save_file(result, out / f"{name}.{distributed.world_size}.{distributed.rank}")


def trained_ahead(distributed: DistributedContext, data: Path) -> dict[str, Tensor]:
    """State of a trainer after four steps with EMA-Nesterov, which looks ahead from the second one on."""
    recipe = toy_recipe(steps=8).set("train.lookahead", part(EMANesterov, start=0.0, end=1.0, decay=0.5))
    trainer = make_trainer(data, recipe, distributed=distributed, noisy=False)
    for step in range(4):
        trainer.step(step, TrainingProgress(step, 8, 0.0, 0.0))
    trainer.close()
    return {name: t.clone().contiguous() for name, t in trainer.state_dict().items()}


def warm_up_changes_nothing(distributed: DistributedContext, data: Path) -> bool:
    """Whether warm-up restores weights and gathered state, and clears the momentum of each process."""
    trainer = make_trainer(data, toy_recipe(steps=8), distributed=distributed)
    before, first = trainer.clone_state(), trainer.optimizer.sharded[0].states[0]["momentum"][0]
    warm_up_graphs(trainer, 2)
    clear = same(trainer.state_dict(), before) and not first.any()
    trainer.step(0, TrainingProgress(0, 8, 0.0, 0.0))
    return clear and bool(first.any())


Results = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Results:
    """The result of every process, by `name.world_size.rank`."""
    out = tmp_path_factory.mktemp("sharded")
    run_as_script(__file__, out, data)
    return {path.name: load_file(path) for path in out.iterdir() if not path.name.endswith("store")}


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    """One process with the whole batch, without sharding."""
    run = Run(SINGLE_PROCESS).steps(0, STEPS)
    assert not run.optimizer.sharded
    return run.result()


# ---- what must hold of them ----------------------------------------------------------------------------------------

WORLDS = [pytest.param(size, id=f"{size} processes") for size in (2, 4)]


@pytest.mark.parametrize("size", WORLDS)
def test_many_processes_make_the_step_of_one(results: Results, alone: dict[str, Tensor], size: int) -> None:
    """Weights and gathered state have the same names and values for any number of processes."""
    start = Run(SINGLE_PROCESS)
    for rank in range(size):
        got = results[f"whole.{size}.{rank}"]
        assert {k: t.shape for k, t in got.items()} == {k: t.shape for k, t in alone.items()}
        for name, want in alone.items():
            torch.testing.assert_close(got[name], want, atol=1e-6, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    for path, p in start.params.items():
        assert torch.equal(p, alone[f"params/{path}"]) == (path == "idle")


@pytest.mark.parametrize("size", WORLDS)
def test_all_processes_have_the_same_bits(results: Results, size: int) -> None:
    for name in ("whole", "rough", "replicated", "half sums"):
        first = results[f"{name}.{size}.0"]
        for rank in range(1, size):
            assert all(torch.equal(t, first[k]) for k, t in results[f"{name}.{size}.{rank}"].items())


@pytest.mark.parametrize("size", WORLDS)
def test_orthogonalization_in_bfloat16_agrees_too(results: Results, alone: dict[str, Tensor], size: int) -> None:
    want = Run(SINGLE_PROCESS, muon=ROUGH).steps(0, STEPS).result()
    got = results[f"rough.{size}.0"]
    moved = [name for name in want if name.startswith("params/") and name not in ("params/scale", "params/idle")]
    for name in moved:
        torch.testing.assert_close(got[name] / 0.02, want[name] / 0.02, atol=2e-2, rtol=0)  # in units of the rate
        assert not torch.allclose(want[name], alone[name], atol=1e-6)


@pytest.mark.parametrize("size", WORLDS)
def test_gradients_reduced_in_bfloat16_are_near(results: Results, alone: dict[str, Tensor], size: int) -> None:
    """Different, but within a few roundings of 2^-9; parameters that are not sharded remain accurate."""
    got = results[f"half sums.{size}.0"]
    for name in (name for name in alone if name.endswith("/momentum")):
        error = (got[name] - alone[name]).norm() / alone[name].norm()
        assert 1e-4 < error < 2**-7, name
    for name in (name for name in alone if name.startswith("params/") and name not in ("params/scale", "params/idle")):
        torch.testing.assert_close(got[name] / 0.02, alone[name] / 0.02, atol=0.2, rtol=0)  # in units of the rate
    torch.testing.assert_close(got["params/scale"], alone["params/scale"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", WORLDS)
def test_without_sharding_the_step_is_the_same(results: Results, alone: dict[str, Tensor], size: int) -> None:
    for name, want in alone.items():
        torch.testing.assert_close(results[f"replicated.{size}.0"][name], want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", WORLDS)
def test_each_process_keeps_the_momentum_of_its_share_only(results: Results, size: int) -> None:
    """3 + 7 + 1 matrices in three stacks, each padded to a multiple of the number of processes."""
    want = -(-3 // size) * 64 + -(-7 // size) * 128 + -(-1 // size) * 32
    assert [int(results[f"counts.{size}.{rank}"]["momentum"]) for rank in range(size)] == [want] * size


@pytest.mark.parametrize("size", WORLDS)
def test_a_checkpoint_goes_on_in_its_own_world(results: Results, size: int) -> None:
    """Resumption with the same number of processes is exact in every process."""
    for rank in range(size):
        whole, again = results[f"whole.{size}.{rank}"], results[f"resumed.{size}.{rank}"]
        assert all(torch.equal(t, whole[k]) for k, t in again.items() if k != "norms")


@pytest.mark.parametrize("size", WORLDS)
def test_a_checkpoint_goes_on_in_one_process(results: Results, alone: dict[str, Tensor], size: int) -> None:
    got = resumed(SINGLE_PROCESS, results[f"half.{size}.{size - 1}"]).result()
    for name, want in alone.items():
        if name != "norms":
            torch.testing.assert_close(got[name], want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", WORLDS)
def test_the_norm_that_clips_is_that_of_the_whole_gradient(results: Results, size: int) -> None:
    """The clipped norm is that of the averaged gradient, not of a shard or of the local gradient, which is larger."""
    want = Run(SINGLE_PROCESS, clip=1e9).steps(0, STEPS).norms
    torch.testing.assert_close(results[f"whole.{size}.0"]["norms"], torch.stack(want), rtol=1e-5, atol=0)
    assert results[f"whole.{size}.0"]["norms"].min() > 1  # it did clip


@pytest.mark.parametrize("size", WORLDS)
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_muon_make_the_step_of_one_process(results: Results, name: str, size: int) -> None:
    """With state of other shapes than the matrix (SOAP), padding by zero matrices, and after resumption.

    The gradients have the same bits for any number of processes: eigenvectors of SOAP's moments, which have a rank
    below their size after few steps, would otherwise not be determined.
    """
    want = Run(SINGLE_PROCESS, muon=VARIANTS[name], clip=UNCLIPPED).steps(0, STEPS).result()
    plain = Run(SINGLE_PROCESS, clip=UNCLIPPED).steps(0, STEPS).result()
    assert any((want[path] - plain[path]).abs().max() > 1e-3 for path in want if path.startswith("params/"))
    for rank in range(size):
        got, again = results[f"{name}.{size}.{rank}"], results[f"{name} resumed.{size}.{rank}"]
        assert got.keys() == want.keys()
        for key, value in want.items():
            torch.testing.assert_close(got[key], value, atol=1e-5, rtol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
            assert torch.equal(got[key], results[f"{name}.{size}.0"][key])
        assert all(torch.equal(t, got[key]) for key, t in again.items() if key != "norms")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_checkpoint_of_a_variant_goes_on_in_one_process(results: Results, name: str) -> None:
    want = Run(SINGLE_PROCESS, muon=VARIANTS[name], clip=UNCLIPPED).steps(0, STEPS).result()
    got = resumed(SINGLE_PROCESS, results[f"{name} half.4.3"], VARIANTS[name], UNCLIPPED).result()
    for key in (key for key in want if key != "norms"):
        torch.testing.assert_close(got[key], want[key], atol=1e-5, rtol=1e-5)


def test_a_lookahead_of_two_processes_is_that_of_one(results: Results, data: Path) -> None:
    """Weights and their mean change have the same bits on both processes, and the values of one."""
    both, want = [results[f"ahead.2.{rank}"] for rank in range(2)], trained_ahead(SINGLE_PROCESS, data)
    moved = [name for name in want if name.startswith(("weights/", "lookahead/"))]
    assert any(name.startswith("lookahead/") and want[name].abs().max() > 1e-3 for name in moved)
    for name in moved:
        assert torch.equal(both[0][name], both[1][name])
        torch.testing.assert_close(both[0][name], want[name], atol=1e-4, rtol=1e-4)


def test_warm_up_clears_the_shards(results: Results) -> None:
    """In the sharded Muon of pull request 1855, the momentum of the warm-up leaked into the first step."""
    assert all(bool(results[f"warm.2.{rank}"]["up"]) for rank in range(2))


if __name__ == "__main__":
    into, text = map(Path, sys.argv[1:3])
    sys.exit(run_in_processes(lambda distributed: work(distributed, into, text), into))
