"""Fast twins are chosen by ability and said aloud; what they train is what the plain parts would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitgolf.edits import append, but
from bitgolf.errors import RecipeError
from bitgolf.journal import Journal
from bitgolf.model.cores.fused import as_autocast
from bitgolf.model.cores.sdpa import SameDocument, Sdpa, Segments, Window
from bitgolf.model.mlp import MLP, LeakySquared
from bitgolf.model.objectives import CrossEntropy
from bitgolf.model.skeleton import LM
from bitgolf.recipe import Recipe
from bitgolf.spec import Place, Spec, part
from bitgolf.train import fast
from bitgolf.train.ability import Call, inability, record
from bitgolf.train.device import Device
from bitgolf.train.trainer import Task
from bitgolf.train.twins import FusedCrossEntropy, FusedMLP
from bitgolf.train.worker import train_run
from toy import VOCAB, built, toy_model, toy_recipe
from toy_training import make_data

CPU = Device(torch.device("cpu"), torch.float32, "a test")


def leaky_toy(slope: float = 0.3) -> Spec[LM]:
    return toy_model().edit(MLP, but(act=part(LeakySquared, slope=slope)))


def make_task(spec: Spec[LM] | None = None) -> Task:
    return Task(built(spec or leaky_toy()), CrossEntropy(Place(vocab=VOCAB)))


@pytest.fixture
def rows() -> tuple[Tensor, Tensor]:
    ids = torch.randint(2, VOCAB, (2, 17), generator=torch.Generator().manual_seed(0))
    ids[:, 5] = 1
    return ids[:, :-1], ids[:, 1:]


def trained(task: Task, rows: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """The loss and every gradient, by name."""
    task.zero_grad()
    loss = task(*rows)
    loss.backward()
    return {"loss": loss.detach(), **{k: p.grad.clone() for k, p in task.named_parameters() if p.grad is not None}}


def swapped(task: Task, rows: tuple[Tensor, Tensor]) -> dict[str, fast.Verdict]:
    found = list(fast.sites(task, rows[0], compiled=False))
    return {kind[0]: verdict for kind, verdict in fast.swap(task, found, *rows, CPU, compiled=False).items()}


def test_swapped_in_they_train_the_same_and_leave_the_model_plain(
    rows: tuple[Tensor, Tensor], triton_device: torch.device
) -> None:
    if triton_device.type != "cpu":
        pytest.skip("the interpreter's test; the GPU has its own")
    task = make_task()
    before, logits = trained(task, rows), task.model(rows[0])
    random = torch.get_rng_state()
    verdicts = swapped(task, rows)
    assert verdicts["softcapped cross-entropy"] == ("fused", "")
    assert verdicts["MLP with LeakySquared"] == ("fused", "")
    assert verdicts["attention"] == ("FlashAttention", "")  # PyTorch has one for the CPU
    assert isinstance(task.objective, FusedCrossEntropy)
    assert all(isinstance(block.mlp, FusedMLP) for block in task.model.blocks)
    assert torch.equal(torch.get_rng_state(), random)
    after = trained(task, rows)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[k], after[k], rtol=1e-4, atol=1e-6) for k in before)
    assert torch.allclose(task.model(rows[0]), logits, atol=1e-5)


def test_the_swapped_task_holds_the_full_graph(rows: tuple[Tensor, Tensor], triton_device: torch.device) -> None:
    task = make_task(leaky_toy().set("layers", 1)).to(triton_device)
    rows = rows[0].to(triton_device), rows[1].to(triton_device)
    expected = trained(task, rows)
    for block in task.model.blocks:
        block.mlp = FusedMLP(block.mlp)  # type: ignore[arg-type]
    task.objective = FusedCrossEntropy(20.0)
    torch._dynamo.reset()
    loss = torch.compile(task, fullgraph=True, backend="eager")(*rows)
    assert torch.allclose(loss, expected["loss"], atol=1e-5)


def test_twins_compute_in_the_type_of_autocast() -> None:
    x = torch.randn(2, 3)
    compiled = torch.compile(lambda x: as_autocast(x, x, x)[2] * 1, fullgraph=True, backend="eager")
    assert compiled(x).dtype is torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert compiled(x).dtype is torch.bfloat16


def test_sites_are_those_combinations_that_have_twins(rows: tuple[Tensor, Tensor]) -> None:
    windowed = leaky_toy().edit(Sdpa, append(masks=part(Window, width=3)))
    names = [site.what for site in fast.sites(make_task(windowed), rows[0], compiled=True)]
    assert sorted(set(names)) == ["MLP with LeakySquared", "attention with Window(3)", "softcapped cross-entropy"]
    uncapped = toy_model().set("head.caps", ())  # relu^2, no cap
    assert {site.what for site in fast.sites(make_task(uncapped), rows[0], compiled=True)} == {"attention"}


@pytest.mark.parametrize(("mode", "why"), [("auto", "no CUDA device"), ("plain", "train.kernels")])
def test_plain_is_said_with_its_reason(mode: str, why: str, rows: tuple[Tensor, Tensor]) -> None:
    task = make_task()
    lines = fast.choose(task, *rows, CPU, mode=mode, compiled=False)
    assert [line.partition(": plain (")[0] for line in lines] == [
        "softcapped cross-entropy",
        "attention",
        "MLP with LeakySquared",
    ]
    assert all(why in line for line in lines)
    assert type(task.objective) is CrossEntropy


def test_insisting_on_what_is_not_able_is_an_error_with_the_reason(rows: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(RecipeError, match="must stay plain: there is no CUDA device") as caught:
        fast.choose(make_task(), *rows, CPU, mode="fast", compiled=False)
    assert caught.value.place == "train.kernels"


# ---- ability --------------------------------------------------------------------------------------------------------


class Slower(nn.Module):
    """A twin that is able, wrong by a factor, or wrong in its gradient alone: half of x's, which is zero at the start."""

    def __init__(self, plain: Any, factor: float = 1.0, *, cut: bool = False) -> None:
        super().__init__()
        self.plain, self.factor, self.cut = plain, factor, cut

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(x.lerp(x.detach(), 0.5 * self.cut)) * self.factor


def fresh_mlp() -> MLP:
    """As it starts: silent."""
    return MLP(Place(vocab=VOCAB, dim=32), hidden=48, act=part(LeakySquared, slope=0.3))


@pytest.fixture
def call() -> Call:
    return Call((torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0)),), ())


def test_ability_is_agreement_in_value_and_gradient_though_the_branch_starts_at_zero(call: Call) -> None:
    plain = fresh_mlp()
    assert not plain(*call.tensors).any()
    weights = [p.clone() for p in plain.parameters()]

    def why(make: Any) -> str:
        return inability(make, plain, call, CPU, compiled=False)

    assert why(Slower) == ""
    assert "from the plain ones" in why(lambda plain: Slower(plain, 1.01))
    assert "from the plain ones" in why(lambda plain: Slower(plain, cut=True))
    assert "from the plain ones" in why(lambda plain: Slower(plain, float("nan")))
    assert all(torch.equal(a, b) for a, b in zip(weights, plain.parameters(), strict=True))


def test_whatever_a_kernel_raises_is_a_reason(call: Call) -> None:
    def broken(plain: nn.Module) -> nn.Module:
        raise NotImplementedError("no such instruction\nand a long story")

    plain = fresh_mlp()
    assert inability(broken, plain, call, CPU, compiled=False) == "NotImplementedError: no such instruction"


def test_a_matrix_with_additions_stays_plain(rows: tuple[Tensor, Tensor]) -> None:
    task = make_task()
    plain = task.model.blocks[0].mlp
    plain.up.add.append(nn.Linear(32, 48))  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="adds to its output"):
        FusedMLP(plain)  # type: ignore[arg-type]


def test_calls_are_recorded_as_the_run_makes_them(rows: tuple[Tensor, Tensor]) -> None:
    task = make_task()
    modules = [task.objective, task.model.blocks[1].mlp, nn.Identity()]
    calls = record(task, modules, CPU, *rows)
    assert [calls[m].form[0][0] for m in modules[:2]] == [(2, 16, 32), (2, 16, 32)]
    assert torch.equal(calls[task.objective].tensors[1], rows[1])
    assert modules[2] not in calls


def test_slots_leave_room_for_four_times_the_documents_and_every_cut(rows: tuple[Tensor, Tensor]) -> None:
    place = Place(vocab=VOCAB, dim=32, heads=4, kv_heads=2)
    documents, capped = (Sdpa(place, masks=(part(Segments, cap=cap),)) for cap in (0, 2))
    assert fast.segment_slots(documents, rows[0], 1) == 64
    every = torch.ones(8, 65, dtype=torch.int64)  # a document a token: 520 of them
    assert fast.segment_slots(documents, every, 1) == 2112  # 4 * 520 = 2080, in steps of 64
    assert fast.segment_slots(capped, every, 1) == 2368  # 260 more


# ---- a run ----------------------------------------------------------------------------------------------------------


def recipe() -> Spec[Recipe]:
    return toy_recipe(steps=2)


def test_a_run_says_and_stores_its_kernels(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    journal = Journal(tmp_path / "run", quiet=True)
    train_run(recipe(), data, tmp_path / "run", seed=0, resume=False, journal=journal)
    journal.close()
    kernels = json.loads((tmp_path / "run" / "train.json").read_text())["kernels"]
    said = (tmp_path / "run" / "run.log").read_text()
    assert kernels
    assert all(f"kernels: {line}" in said for line in kernels)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_the_device_the_fused_kernels_are_taken_and_train_the_same() -> None:
    from bitgolf.train.device import choose

    device = choose()
    spec = leaky_toy().edit(LM, but(dim=128)).edit(Sdpa, append(masks=part(SameDocument)))
    task = make_task(spec).to(device.device)
    ids = torch.randint(2, VOCAB, (2, 129), device=device.device)
    ids[:, 40] = 1
    rows = ids[:, :-1], ids[:, 1:]
    with device.autocast():
        before = trained(task, rows)
        lines = fast.choose(task, *rows, device, mode="fast", compiled=True)
        after = trained(task, rows)
    assert any("softcapped cross-entropy: fused" in line for line in lines), lines
    gaps = {k: ((before[k] - after[k]).norm() / before[k].norm().clamp_min(1e-6)).item() for k in before}
    assert max(gaps.values()) < 5e-2, gaps
