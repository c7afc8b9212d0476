"""Fast twins are chosen by ability and said aloud; what they train is what the plain parts would."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitgolf.config.build_context import Place
from bitgolf.config.edits import append, but
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, RecipeError, Unsupported
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.cores.sdpa import SameDocument, Sdpa, Window
from bitgolf.model.attention.cores.sdpa_backend import Fused, as_autocast
from bitgolf.model.attention.cores.segment_capacity import Room
from bitgolf.model.attention.cores.varlen import Varlen
from bitgolf.model.attention.exclusive import ExclusiveSelf
from bitgolf.model.attention.gates import DenseGate, HeadGate, NarrowGate, SparseGate
from bitgolf.model.forward_context import Bus
from bitgolf.model.interfaces import AfterPart
from bitgolf.model.lm import LM
from bitgolf.model.mlp import MLP, LeakySquared
from bitgolf.model.objectives import CrossEntropy
from bitgolf.pipeline.training import train_run
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import Journal
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import World
from bitgolf.train.kernels import select
from bitgolf.train.kernels.fused import ExclusiveThenGate, FusedCrossEntropy, FusedExclusiveGate, FusedMLP, sigmoid_form
from bitgolf.train.kernels.parity import Call, Timer, Trial, record
from bitgolf.train.loss_module import Task
from helpers.process_groups import as_program, fork
from helpers.toy import VOCAB, built, toy_model, toy_recipe
from helpers.toy_training import make_data

CPU = Device(torch.device("cpu"), torch.float32, "a test")
TRAINING = Trial(CPU, compiled=False, backward=True)


def leaky_toy(slope: float = 0.3) -> Spec[LM]:
    return toy_model().edit(MLP, but(act=part(LeakySquared, slope=slope)))


class ScaledOutput(AfterPart):
    """Another part of the chain on attention's output."""

    def forward(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        return 2 * y


def disturb(module: nn.Module) -> None:
    """Random values in place of the zeros that silence a model at its start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=p.shape[-1] ** -0.5)


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


def no_time(call: Callable[[], object]) -> float:
    """Runs a call, and finds all equally fast: the first twin that agrees is then taken."""
    call()
    return 1.0


def judged(
    root: nn.Module, inputs: Sequence[Tensor], *, backward: bool = True, timer: Timer = no_time
) -> tuple[select.Choice, dict[str, select.Verdict]]:
    """Choose on the CPU as on a GPU; the verdicts by what they are on."""
    found = list(select.sites(root, compiled=False))
    trial = Trial(CPU, compiled=False, backward=backward)
    verdicts = select.judge(root, found, inputs, trial, [inputs[0].numpy()], 1, timer=timer)
    return select.Choice(root, found, verdicts, 1, print), {s.what: v for s, v in zip(found, verdicts, strict=True)}


def test_swapped_in_they_train_the_same_and_leave_the_model_plain(
    rows: tuple[Tensor, Tensor], triton_device: torch.device
) -> None:
    if triton_device.type != "cpu":
        pytest.skip("the interpreter's test; the GPU has its own")
    task = make_task()
    before, logits, kinds = trained(task, rows), task.model(rows[0]), {type(m) for m in task.modules()}
    random = torch.get_rng_state()
    choice, verdicts = judged(task, rows)
    taken = {what: verdict.twin for what, verdict in verdicts.items()}
    assert taken == {
        "softcapped cross-entropy": "fused",
        "MLP with LeakySquared": "fused",
        "attention": "FlashAttention of PyTorch",
    }
    assert isinstance(task.objective, FusedCrossEntropy)
    assert all(isinstance(block.mlp, FusedMLP) for block in task.model.blocks)
    assert torch.equal(torch.get_rng_state(), random)
    after = trained(task, rows)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[k], after[k], rtol=1e-4, atol=1e-6) for k in before)
    assert torch.allclose(task.model(rows[0]), logits, atol=1e-5)
    choice.restore()
    assert {type(m) for m in task.modules()} == kinds
    assert torch.equal(task.model(rows[0]), logits)


def test_exclusive_attention_and_its_gate_become_one_part_of_the_chain(
    rows: tuple[Tensor, Tensor], triton_device: torch.device
) -> None:
    """What stands before and behind them stays; the gate's weight keeps its gradient."""
    if triton_device.type != "cpu":
        pytest.skip("the interpreter's test; the GPU has its own")
    after = (part(ScaledOutput), part(ExclusiveSelf), part(SparseGate, scale=0.5), part(NarrowGate))
    task = make_task(leaky_toy().set("layers", 1).edit(Attention, but(after=after)))
    disturb(task)
    chain, before = task.model.blocks[0].mixer.after, trained(task, rows)  # type: ignore[union-attr]
    choice, verdicts = judged(task, rows)
    assert verdicts["ExclusiveSelf, SparseGate"].twin == "fused"
    kinds = [type(p) for p in task.model.blocks[0].mixer.after]  # type: ignore[union-attr]
    assert kinds == [ScaledOutput, FusedExclusiveGate, NarrowGate]
    after_swap = trained(task, rows)
    choice.restore()
    assert task.model.blocks[0].mixer.after is chain  # type: ignore[union-attr]
    gate = "model.blocks.0.mixer.after.2.weight"
    assert before[gate].norm() > 0
    swapped_gate = after_swap["model.blocks.0.mixer.after.1.gate.weight"]
    assert torch.allclose(swapped_gate, before[gate], rtol=1e-3, atol=1e-6)
    assert torch.allclose(after_swap["loss"], before["loss"], rtol=1e-5)


def test_a_gate_of_another_form_and_a_cap_out_of_range_are_refused() -> None:
    place = Place(vocab=VOCAB, dim=32, heads=4, kv_heads=2)
    assert [sigmoid_form(g) for g in (SparseGate(place, scale=0.5), NarrowGate(place), DenseGate(place))] == [
        (0.5, 1.0),
        (1.0, 2.0),
        (1.0, 1.0),
    ]
    with pytest.raises(Unsupported, match="HeadGate is not known"):
        FusedExclusiveGate(ExclusiveThenGate(ExclusiveSelf(place), HeadGate(place, 12)))
    with pytest.raises(Unsupported, match="a cap of 65 is above 64"):
        FusedCrossEntropy(65.0)


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


def test_sites_are_those_combinations_that_have_twins() -> None:
    windowed = leaky_toy().edit(Sdpa, append(masks=part(Window, width=3)))
    names = [site.what for site in select.sites(make_task(windowed), compiled=True)]
    assert sorted(set(names)) == ["MLP with LeakySquared", "attention with Window(3)", "softcapped cross-entropy"]
    uncapped = toy_model().set("head.caps", ())  # relu^2, no cap
    assert {site.what for site in select.sites(make_task(uncapped), compiled=True)} == {"attention"}


@pytest.mark.parametrize(("mode", "why"), [("auto", "no CUDA device"), ("plain", "train.kernels")])
def test_plain_is_said_with_its_reason(mode: str, why: str, rows: tuple[Tensor, Tensor]) -> None:
    task = make_task()
    lines = select.choose(task, rows, CPU, mode=mode, compiled=False, bos=1).lines
    assert [line.partition(": plain (")[0] for line in lines] == [
        "softcapped cross-entropy",
        "attention",
        "MLP with LeakySquared",
    ]
    assert all(why in line for line in lines)
    assert type(task.objective) is CrossEntropy


def test_insisting_on_what_is_not_able_is_an_error_with_the_reason(rows: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(RecipeError, match="must stay plain: there is no CUDA device") as caught:
        select.choose(make_task(), rows, CPU, mode="fast", compiled=False, bos=1)
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
        return TRAINING.inability(make, plain, call)

    assert why(Slower) == ""
    assert "from the plain ones" in why(lambda plain: Slower(plain, 1.01))
    assert "from the plain ones" in why(lambda plain: Slower(plain, cut=True))
    assert "from the plain ones" in why(lambda plain: Slower(plain, float("nan")))
    assert all(torch.equal(a, b) for a, b in zip(weights, plain.parameters(), strict=True))


def test_whatever_a_kernel_raises_is_a_reason(call: Call) -> None:
    def broken(plain: nn.Module) -> nn.Module:
        raise NotImplementedError("no such instruction\nand a long story")

    plain = fresh_mlp()
    assert TRAINING.inability(broken, plain, call) == "NotImplementedError: no such instruction"


def test_a_matrix_with_additions_stays_plain(rows: tuple[Tensor, Tensor]) -> None:
    task = make_task()
    plain = task.model.blocks[0].mlp
    plain.up.add.append(nn.Linear(32, 48))  # type: ignore[union-attr]
    with pytest.raises(Unsupported, match="adds to its output"):
        FusedMLP(plain)  # type: ignore[arg-type]


def test_calls_are_recorded_as_the_run_makes_them(rows: tuple[Tensor, Tensor]) -> None:
    task = make_task()
    modules = [task.objective, task.model.blocks[1].mlp, nn.Identity()]
    calls = record(task, modules, CPU, rows)
    assert [calls[m].form[0][0] for m in modules[:2]] == [(2, 16, 32), (2, 16, 32)]
    assert torch.equal(calls[task.objective].tensors[1], rows[1])
    assert modules[2] not in calls


def test_a_lack_of_memory_is_an_error_that_names_the_part_and_its_shape(call: Call) -> None:
    """Also where a compiler has wrapped it. It is no reason to stay plain."""

    def greedy(plain: nn.Module) -> nn.Module:
        try:
            raise torch.OutOfMemoryError("tried to allocate 36 GiB")
        except torch.OutOfMemoryError as error:
            raise RuntimeError("the backend failed") from error

    for attempt in (
        lambda: TRAINING.inability(greedy, fresh_mlp(), call),
        lambda: TRAINING.cost(greedy, fresh_mlp(), call, no_time),
    ):
        with pytest.raises(BitgolfError, match=r"while trying MLP on tensors of \(1, 5, 32\)") as caught:
            attempt()
        assert caught.value.place == "train.micro_rows"


# ---- speed ----------------------------------------------------------------------------------------------------------


def faking(times: dict[type[nn.Module], float], monkeypatch: pytest.MonkeyPatch) -> Timer:
    """A timer that says of each kind of module what it is told to."""
    running: list[type[nn.Module]] = []
    prepared = Trial.prepared

    def remember(self: Trial, module: nn.Module) -> Callable[..., Tensor]:
        running.append(type(module))
        return prepared(self, module)

    monkeypatch.setattr(Trial, "prepared", remember)
    return lambda once: times[running[-1]]


class Same(Slower): ...


class Wrong(Slower):
    def __init__(self, plain: Any) -> None:
        super().__init__(plain, 1.01)


@pytest.mark.parametrize(
    ("slower", "same", "plain", "expected"), [(4.0, 2.0, 3.0, "same"), (2.0, 4.0, 3.0, "slower"), (4.0, 5.0, 3.0, "")]
)
def test_the_fastest_that_agrees_wins_whatever_a_wrong_one_takes(
    slower: float, same: float, plain: float, expected: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = faking({Slower: slower, Same: same, MLP: plain, Wrong: 0.1}, monkeypatch)
    site = select.Site.of("an MLP", fresh_mlp(), {"wrong": Wrong, "slower": Slower, "same": Same})
    verdict = select.verdict(site, call, torch.ones(1, 5, dtype=torch.int64), TRAINING, timer, plain=True)
    assert verdict.twin == expected
    assert verdict.why == (
        f"slower {slower:.3g} ms; same {same:.3g} ms; plain {plain:.3g} ms; wrong: its numbers are 1.0% from the plain ones"
    )
    insisted = select.verdict(site, call, torch.ones(1, 5, dtype=torch.int64), TRAINING, timer, plain=False)
    assert insisted.twin == ("slower" if slower < same else "same")


def test_what_fails_at_full_size_is_out_with_the_reason(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(Slower):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[1] > 5:
                raise ValueError("five at most")
            return super().forward(x)

    site = select.Site.of("an MLP", fresh_mlp(), {"small": Small})
    verdict = select.verdict(site, call, torch.ones(1, 9, dtype=torch.int64), TRAINING, no_time, plain=True)
    assert verdict == ("", "plain 1 ms; small: ValueError: five at most", (0, 0))


def test_parity_is_on_a_slice_and_speed_at_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is recorded or compared on more than `PARITY_TOKENS` of one row; what is timed has the run's own shape."""
    monkeypatch.setattr(select, "PARITY_TOKENS", 8)
    task = make_task(leaky_toy().edit(Sdpa, append(masks=part(Window, width=3))))
    ids = torch.randint(2, VOCAB, (3, 33))
    seen: dict[str, set[tuple[int, ...]]] = {"compared": set(), "timed": set()}
    difference, cost = Trial.difference, Trial.cost

    def compare(self: Trial, a: Any, b: Any, plain: nn.Module, call: Call) -> float:
        seen["compared"].add(tuple(call.tensors[0].shape[:2]))
        return difference(self, a, b, plain, call)

    def measure(self: Trial, make: Any, plain: nn.Module, call: Call, timer: Timer) -> float | str:
        seen["timed"].add(tuple(call.tensors[0].shape[:2]))
        return cost(self, make, plain, call, timer)

    monkeypatch.setattr(Trial, "difference", compare)
    monkeypatch.setattr(Trial, "cost", measure)
    judged(task, (ids[:, :-1], ids[:, 1:]))
    assert seen == {"compared": {(1, 8)}, "timed": {(3, 32)}}


def test_no_mask_beyond_the_longest_is_made_for_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Free(Fused):
        def __init__(self, plain: Sdpa) -> None:
            nn.Module.__init__(self)
            self.plain = plain

        def forward(self, q: Tensor, k: Tensor, v: Tensor, bus: Bus) -> Tensor:
            return self.plain(q, k, v, bus)

    place = Place(vocab=VOCAB, dim=8, heads=1, kv_heads=1)
    site = select.Site.of("attention", Sdpa(place, masks=(part(SameDocument),)), {"free": Free})
    ids = torch.full((1, 16), 2)
    call = Call(tuple(torch.randn(1, 16, 1, 8) for _ in range(3)), (Bus(ids),))
    for longest, timed in ((16, "free 1 ms; plain 1 ms"), (15, "free 1 ms")):
        monkeypatch.setattr(select, "LONGEST_MASK", longest)
        verdict = select.verdict(site, call, ids, TRAINING, no_time, plain=True)
        assert (verdict.twin, verdict.why) == ("free", timed)


class Counting(Varlen):
    """A variable-length core that counts segments, and leaves attention to the plain one."""

    def __init__(self, plain: Sdpa) -> None:
        super().__init__(plain)
        self.plain = plain

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bus: Bus) -> Tensor:
        self.ends(bus)
        return self.plain(q, k, v, bus)


def test_a_chosen_core_has_room_for_the_first_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the batch that it is tried with needs less; the log line says how much."""
    monkeypatch.setattr(select, "attention_twins", lambda plain, compiled: {"counting": Counting})
    model = built(leaky_toy().edit(Sdpa, append(masks=part(SameDocument))))
    ids = torch.full((2, 300), 2)
    later = ids.clone()
    later[:, ::4] = 1  # 150 documents
    trial = Trial(CPU, compiled=False, backward=True)
    found = [site for site in select.sites(model, compiled=False) if "attention" in site.what]
    verdicts = select.judge(model, found, (ids,), trial, [ids.numpy(), later.numpy()], 1, plain=False, timer=no_time)
    assert {verdict.room for verdict in verdicts} == {Room(192, 300)}  # 1.25 * 150 in steps of 64
    choice = select.Choice(model, found, verdicts, 1, print)
    assert {core.room for core in choice.slots.cores} == {Room(192, 300)}
    line = "counting (counting 1 ms; room for 192 segments of at most 300 tokens)"
    assert choice.lines == [f"attention with SameDocument(): {line}"]


# ---- scoring --------------------------------------------------------------------------------------------------------


def test_a_bare_model_is_served_without_gradients_and_left_as_it_was(
    rows: tuple[Tensor, Tensor], triton_device: torch.device
) -> None:
    if triton_device.type != "cpu":
        pytest.skip("the interpreter's test; the GPU has its own")
    model = built(leaky_toy())
    model.requires_grad_(False)
    kinds, logits = [type(m) for m in model.modules()], model(rows[0])
    choice, verdicts = judged(model, rows[:1], backward=False)
    assert {what: v.twin for what, v in verdicts.items()} == {
        "MLP with LeakySquared": "fused",
        "attention": "FlashAttention of PyTorch",
    }
    assert torch.allclose(model(rows[0]), logits, atol=1e-5)
    choice.restore()
    assert [type(m) for m in model.modules()] == kinds


# ---- several processes ----------------------------------------------------------------------------------------------


def _member(world: World) -> None:
    """Each rank would choose otherwise, and has another batch; both take what rank 0 says, its room included."""
    masked = leaky_toy().edit(Sdpa, append(masks=part(SameDocument)))
    model, own = built(masked), "variable-length of PyTorch" if world.rank == 0 else "FlexAttention"

    def judge(root: nn.Module, found: Sequence[select.Site], *rest: Any, **options: Any) -> list[select.Verdict]:
        assert world.rank == 0, "only rank 0 tries kernels"
        return [select.Verdict(own if own in site.twins else "", "so says 0", Room(128, 512)) for site in found]

    select.judge = judge
    device = Device(torch.device("cuda"), torch.float32, "a test")
    ids = torch.full((1, 8), 2 + world.rank)
    choice = select.choose(model, (ids,), device, mode="auto", compiled=True, bos=1, backward=False, world=world)
    assert [core.room for core in choice.slots.cores] == [Room(128, 512)] * len(model.blocks)
    assert all(type(m.core) is Varlen for m in model.modules() if hasattr(m, "core"))
    assert choice.lines == [
        "attention with SameDocument(): variable-length of PyTorch (so says 0)",
        "MLP with LeakySquared: plain (so says 0)",
    ]
    with pytest.raises(RecipeError, match="MLP with LeakySquared must stay plain: so says 0"):
        choice.restore()
        select.choose(model, (ids,), device, mode="fast", compiled=True, bos=1, backward=False, world=world)


def test_every_process_takes_the_choice_of_the_first(tmp_path: Path) -> None:
    as_program(__file__, tmp_path)


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
    from bitgolf.runtime.device import choose

    device = choose()
    spec = leaky_toy().edit(LM, but(dim=128)).edit(Sdpa, append(masks=part(SameDocument)))
    spec = spec.edit(Attention, but(after=(part(ExclusiveSelf), part(SparseGate))))
    task = make_task(spec).to(device.device)
    ids = torch.randint(2, VOCAB, (2, 129), device=device.device)
    ids[:, 40] = 1
    rows = ids[:, :-1], ids[:, 1:]
    with device.autocast():
        before = trained(task, rows)
        lines = select.choose(task, rows, device, mode="fast", compiled=True, bos=1).lines
        after = trained(task, rows)
    assert any("softcapped cross-entropy: fused" in line for line in lines), lines
    gaps = {k: ((before[k] - after[k]).norm() / before[k].norm().clamp_min(1e-6)).item() for k in before}
    assert max(gaps.values()) < 5e-2, gaps


if __name__ == "__main__":
    sys.exit(fork(_member, Path(sys.argv[1])))
