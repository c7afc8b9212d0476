"""The trainer: warm-up, gradient accumulation, reproducibility, state, and usage of parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitgolf.average.ema import EMA
from bitgolf.average.lawa import LAWA
from bitgolf.average.swa import SWA
from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, CorruptFileError, RecipeError, UsageError
from bitgolf.model.build import model_size
from bitgolf.model.interfaces import Norm
from bitgolf.model.linear import Linear
from bitgolf.model.residual import RMSNorm
from bitgolf.pipeline.training import TrainingJob, train_rank
from bitgolf.report.log import RunLog
from bitgolf.runtime.device import select_device
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.checkpoint import load_latest, save
from bitgolf.training.graphs import compile_loss, warm_up_graphs
from bitgolf.training.part_usage import measure_part_usage
from bitgolf.training.trainer import Trainer
from helpers.toy import toy_recipe
from helpers.toy_training import make_trainer, same

AVERAGES = (
    None,
    part(EMA, decay=0.9, bias_correction=True),
    part(SWA, every=2, lr_scale_below=1.1),
    part(LAWA, every=2, keep=3, lr_scale_below=1.1),
)


def run(trainer: Trainer, first: int, last: int) -> list[float]:
    """The losses of steps first, ..., last - 1."""
    return [
        float(trainer.step(step, TrainingProgress(step, trainer.settings.steps, 0.0, 0.0)))
        for step in range(first, last)
    ]


@pytest.mark.parametrize("average", AVERAGES)
def test_warm_up_changes_nothing(data: Path, average: Spec[object] | None) -> None:
    recipe = toy_recipe(steps=8).set("average", average)
    cold = make_trainer(data, recipe)
    start, losses, end = cold.clone_state(), run(cold, 0, 8), cold.clone_state()
    warm = make_trainer(data, recipe)
    warm_up_graphs(warm, 3)
    assert same(warm.state_dict(), start) and not same(start, end)
    assert run(warm, 0, 2) == losses[:2]
    middle = warm.clone_state()
    warm_up_graphs(warm, 3)
    assert same(warm.state_dict(), middle)
    assert run(warm, 2, 8) == losses[2:] and same(warm.state_dict(), end)


@pytest.mark.parametrize("micro_rows", [1, 2, 3])
def test_accumulation_does_not_matter(data: Path, micro_rows: int) -> None:
    whole, pieces = (
        make_trainer(data, toy_recipe(steps=20).set("train.micro_rows", micro), noisy=False)
        for micro in (0, micro_rows)
    )
    calls = []
    pieces.loss_module.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    assert run(pieces, 0, 20) == pytest.approx(run(whole, 0, 20), rel=1e-5)
    assert calls[: len(calls) // 20] == {1: [1, 1, 1, 1], 2: [2, 2], 3: [3, 1]}[micro_rows]


def test_a_seed_repeats_a_run_bit_for_bit(data: Path) -> None:
    first = make_trainer(data, seed=3)
    start, losses, end = first.clone_state(), run(first, 0, 8), first.clone_state()
    other = make_trainer(data, seed=4)
    assert not same(other.state_dict(), start)
    assert run(other, 0, 8) != losses
    again = make_trainer(data, seed=3)
    assert run(again, 0, 8) == losses and same(again.state_dict(), end)


@pytest.mark.parametrize("average", AVERAGES)
def test_a_state_goes_on_where_it_was_saved(tmp_path: Path, data: Path, average: Spec[object] | None) -> None:
    recipe = toy_recipe(steps=8).set("average", average)
    first = make_trainer(data, recipe, seed=1)
    run(first, 0, 4)
    save(tmp_path, 4, first.state_dict())
    at_4, rest = first.clone_state(), run(first, 4, 8)
    second = make_trainer(data, recipe, seed=1)
    run(second, 0, 1)  # a state of its own, which must go
    found = load_latest(tmp_path)
    assert found
    second.load_state_dict(found.tensors)
    assert same(second.state_dict(), at_4)
    assert run(second, 4, 8) == rest and same(second.state_dict(), first.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("average", None), r"average/count\.0 is unexpected"),
        (("average", part(LAWA, every=2, keep=3, lr_scale_below=1.1)), "average/"),
        (("model.layers", 3), r"average/mean\.\d+ is missing"),
        (("model.dim", 16), r"is \(.*32.*\) float32, expected \(.*16"),
    ],
)
def test_a_state_of_another_recipe_is_refused(data: Path, change: tuple[str, object], message: str) -> None:
    saved = make_trainer(data).state_dict()
    trainer = make_trainer(data, toy_recipe(steps=8).set(*change))
    before = trainer.clone_state()
    with pytest.raises(CorruptFileError, match=message):
        trainer.load_state_dict(saved)
    assert same(trainer.state_dict(), before)


# ---- usage -----------------------------------------------------------------------------------------------------


class Deaf(Norm):
    """A norm that contains another one, which it does not call."""

    def __init__(self, context: BuildContext, /, *, inner: Spec[Norm]) -> None:
        super().__init__()
        self.inner = inner(context)

    def forward(self, x: Tensor) -> Tensor:
        return x


class Idle(RMSNorm):
    """A norm that is never called."""


def probe(trainer: Trainer) -> tuple[Tensor, Tensor]:
    batch = trainer.batches.load_batch(0)
    return trainer.to_device(batch.inputs), trainer.to_device(batch.targets)


def test_what_the_parts_touch_is_the_whole_model(data: Path) -> None:
    recipe = toy_recipe()
    trainer = make_trainer(data, recipe)
    table = measure_part_usage(trainer.loss_module, recipe().model, *probe(trainer))
    assert sum(t.parameters for t in table.values()) == sum(p.numel() for p in trainer.model.parameters())
    assert sum(t.tensors for t in table.values()) == len(trainer.params)
    matrices = [m.weight for m in trainer.loss_module.modules() if type(m) is Linear]
    assert table["Linear"] == (len(matrices), sum(w.numel() for w in matrices), len(matrices))
    assert table["Block"].calls == model_size(recipe().model).layers
    assert not any(m._forward_hooks for m in trainer.loss_module.modules())


def test_a_part_that_never_runs_is_an_error(data: Path) -> None:
    recipe = toy_recipe().set("model.block.norm", part(Deaf, inner=part(Idle)))
    trainer = make_trainer(data, recipe)
    with pytest.raises(RecipeError, match=r"model\.block\.norm\.inner: Idle is in the recipe and never runs"):
        measure_part_usage(trainer.loss_module, recipe().model, *probe(trainer))


def test_a_dead_part_beside_a_live_one_of_its_class_is_an_error(data: Path) -> None:
    recipe = toy_recipe().set("model.block.norm", part(Deaf, inner=part(RMSNorm)))
    trainer = make_trainer(data, recipe)
    with pytest.raises(RecipeError, match=r"model\.block\.norm\.inner: RMSNorm is in the recipe and never runs"):
        measure_part_usage(trainer.loss_module, recipe().model, *probe(trainer))


# ---- device, graph, settings, data -----------------------------------------------------------------------------


def test_without_cuda_it_is_the_cpu_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    chosen = select_device()
    assert (chosen.torch_device, chosen.compute_dtype) == (torch.device("cpu"), torch.float32)
    assert (
        "no CUDA device" in chosen.description and "1 threads" in chosen.description and "float32" in chosen.description
    )
    with chosen.autocast():
        assert not torch.is_autocast_enabled("cpu")


def test_the_device_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with two GPUs, `cpu` selects the CPU, and a third process has no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert (
        select_device(device_type="cpu").torch_device == torch.device("cpu")
        and "as requested" in select_device(device_type="cpu").description
    )
    for wanted in ("auto", "cuda"):
        assert select_device(1, wanted)[:2] == (torch.device("cuda", 1), torch.bfloat16)
        with pytest.raises(UsageError, match="local rank 2 has no GPU"):
            select_device(2, wanted)


@pytest.mark.parametrize(
    ("device_type", "message"),
    [("cuda", "no CUDA device"), ("mps", "no MPS device"), ("tpu", "unknown device 'tpu'")],
)
def test_a_device_that_is_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch, device_type: str, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match=message):
        select_device(device_type=device_type)


def test_the_probe_reads_the_beginning_of_a_long_row(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    monkeypatch.setattr("bitgolf.training.part_usage.PROBE_TOKENS", 8)
    recipe = toy_recipe()
    trainer, lengths = make_trainer(data, recipe), set[int]()
    trainer.model.embed.register_forward_hook(lambda m, inputs, y: lengths.add(inputs[0].shape[1]))
    ids, targets = probe(trainer)
    assert ids.shape[1] > 8 and measure_part_usage(trainer.loss_module, recipe().model, ids, targets)
    assert lengths == {8}


def test_a_cpu_compiles_only_when_asked(data: Path) -> None:
    trainer = make_trainer(data)
    for mode in ("auto", "off"):
        compute_loss, line = compile_loss(trainer, mode)
        assert "eager" in line and compute_loss is trainer.loss_module
    compute_loss, line = compile_loss(trainer, "on")
    assert "full graph" in line and compute_loss is not trainer.loss_module


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "training has no limit"),
        ({"seconds": -1.0}, "Train.seconds: must be from 0 .*, got -1"),
        ({"checkpoint_seconds": -2.0}, "Train.checkpoint_seconds: must be from 0 .*, got -2"),
        ({"rows": 0}, "Train.rows: must be from 1 to 65,536, got 0"),
        ({"length": 1}, "Train.length: must be from 2 to 16,777,216, got 1"),
        ({"micro_rows": -1}, "Train.micro_rows: must be from 0 to 65,536, got -1"),
        ({"grad_clip": -1.0}, "Train.grad_clip: must be from 0 .*, got -1"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, float], message: str) -> None:
    with pytest.raises(BitgolfError, match=message):
        toy_recipe()().train.replace(**change)()


def test_the_vocabulary_is_that_of_the_data(tmp_path: Path, data: Path) -> None:
    """The vocabulary in a recipe is an upper limit: a small text gives fewer pieces, and shards may differ."""
    counts = [
        train_rank(
            TrainingJob(recipe=toy_recipe(steps=1, vocab=vocab), data=data, folder=tmp_path / str(vocab)), RunLog()
        ).parameters
        for vocab in (280, 400)
    ]
    assert counts[0] == counts[1]
