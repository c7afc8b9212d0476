"""Tied blocks, low-rank adapters and repeats with separate MLPs: formulas, training, and artifacts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from bitgolf.artifact.model import load_model, write_model
from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append, replace
from bitgolf.config.spec import Spec, part
from bitgolf.errors import CorruptFileError, RecipeError
from bitgolf.model.block import Block
from bitgolf.model.build import build_on_meta
from bitgolf.model.factored_embedding import FactoredEmbedding
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.layer_schedule import GatedSkip, UNet
from bitgolf.model.linear import Linear
from bitgolf.model.lm import LM
from bitgolf.model.parameters import load_weights, parameter_roles
from bitgolf.model.part import only
from bitgolf.model.residual import MixX0
from bitgolf.model.weight_sharing import LoopWithUntiedMLP, LowRankAdapter, TieBlocks
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.quantize.encoding import decode_model, encode_model
from bitgolf.recipes.recipe import Recipe
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.graphs import warm_up_graphs
from bitgolf.training.trainer import Trainer, extract_average_state
from helpers.toy import VOCAB, built, toy_model, toy_recipe
from helpers.toy_training import make_data, make_trainer, same

STEPS = 6


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(2, VOCAB, (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def blocks_of(model: LM) -> list[Block]:
    return [cast(Block, block) for block in model.blocks]


def matrices(block: nn.Module) -> dict[str, nn.Parameter]:
    return {path: block.get_parameter(path) for path, role in parameter_roles(block).items() if role == "matrix"}


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# ---- tied blocks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cycle", "owners"), [(False, [0, 0, 0, 3, 3, 3]), (True, [0, 1, 0, 1, 0, 1])])
def test_visits_share_matrices_and_nothing_else(cycle: bool, owners: list[int]) -> None:
    model = toy_model().replace(layers=6, weight_sharing=(part(TieBlocks, blocks=2, cycle=cycle),))(
        BuildContext(vocab=VOCAB)
    )
    blocks = blocks_of(model)
    for block, owner in zip(blocks, owners, strict=True):
        for (path, p), (_, theirs) in zip(block.named_parameters(), blocks[owner].named_parameters(), strict=True):
            assert (p is theirs) == (path in matrices(block) or block is blocks[owner]), path
    assert len({id(p) for block in blocks for p in matrices(block).values()}) == 2 * 6
    flat = toy_model().replace(layers=2)(BuildContext(vocab=VOCAB))
    scalars = sum(p.numel() for path, p in blocks[0].named_parameters() if path not in matrices(blocks[0]))
    assert count(model) == count(flat) + 4 * scalars
    assert set(parameter_roles(model)) == dict(model.named_parameters()).keys()


@pytest.mark.parametrize("blocks", [4, 6, 7])
def test_a_number_of_blocks_that_does_not_divide_is_an_error(blocks: int) -> None:
    with pytest.raises(RecipeError, match=rf"number of layers, 6, must be a larger multiple of blocks={blocks}"):
        toy_model().replace(layers=6, weight_sharing=(part(TieBlocks, blocks=blocks),))(BuildContext(vocab=VOCAB))


def test_blocks_that_differ_cannot_be_tied() -> None:
    spec = toy_model().replace(layers=4, weight_sharing=(part(TieBlocks, blocks=2),))
    spec = spec.edit("block", append(pre_block=only("1", part(WithMatrix))))
    with pytest.raises(
        RecipeError, match=r"tied blocks must have equal matrices, but pre_block\.1\.linear\.weight is missing"
    ):
        spec(BuildContext(vocab=VOCAB))


class WithMatrix(MixX0):
    def __init__(self, context: BuildContext, /) -> None:
        super().__init__(context)
        self.linear = Linear(context.for_matrix(4, 4))


def low_rank(layers: int, blocks: int) -> Spec[LM]:
    spec = toy_model().replace(layers=layers, weight_sharing=(part(TieBlocks, blocks=blocks),))
    return spec.edit(Linear, append(adapters=part(LowRankAdapter, rank=3)))


def test_tied_matrices_and_low_rank_by_formula(ids: Tensor) -> None:
    """Each visit uses its own W + B A: equal to separate layers with these matrices, in float64."""
    model = built(low_rank(4, 2)).double()
    flat = built(toy_model().replace(layers=4)).double()
    own = dict(flat.named_parameters())
    with torch.no_grad():
        for path, p in model.state_dict().items():
            if path in own:
                own[path].copy_(p)
            elif path.endswith(".adapters.0.a"):
                matrix = path.removesuffix(".adapters.0.a") + ".weight"
                own[matrix].add_(model.get_parameter(path[:-1] + "b") @ p)
    assert torch.allclose(model(ids), flat(ids), atol=1e-10)


def test_a_low_rank_pair_starts_silent_and_is_its_visits_own(ids: Tensor) -> None:
    torch.manual_seed(0)
    model = low_rank(4, 2)(BuildContext(vocab=VOCAB))
    bare = built(toy_model().replace(layers=4, weight_sharing=(part(TieBlocks, blocks=2),)))
    bare.load_state_dict({k: w for k, w in model.state_dict().items() if ".adapters." not in k})
    assert torch.equal(model(ids), bare(ids)), "with B = 0 the blocks are tied"
    pairs = {path: p for path, p in model.named_parameters() if ".adapters." in path}
    assert len(pairs) == 4 * 6 * 2 and {parameter_roles(model)[path] for path in pairs} == {"scale"}
    wide = LowRankAdapter(BuildContext(vocab=VOCAB).for_matrix(400, 7), rank=50)
    assert wide.a.shape == (50, 400) and wide.b.shape == (7, 50) and not wide.b.any()
    assert wide.a.std().item() == pytest.approx(400**-0.5, rel=0.02)
    with pytest.raises(RecipeError, match=r"rank: must be at least 1, got 0"):
        LowRankAdapter(BuildContext(vocab=VOCAB).for_matrix(4, 4), rank=0)


def test_the_gradient_of_a_tied_matrix_is_the_sum_over_its_visits(ids: Tensor) -> None:
    tied = built(toy_model().replace(layers=4, weight_sharing=(part(TieBlocks, blocks=2),))).double()
    flat = built(toy_model().replace(layers=4)).double()
    flat.load_state_dict(tied.state_dict())
    tied(ids).logsumexp(-1).mean().backward()
    flat(ids).logsumexp(-1).mean().backward()
    for first in (0, 2):
        for path, p in matrices(blocks_of(tied)[first]).items():
            visits = [blocks_of(flat)[i].get_parameter(path).grad for i in (first, first + 1)]
            assert p.grad is not None and torch.allclose(p.grad, torch.stack(cast(Any, visits)).sum(0), atol=1e-12)


# ---- from training to the artifact ------------------------------------------------------------------------------


def recursive() -> Spec[Recipe]:
    return toy_recipe(steps=STEPS).replace(model=low_rank(4, 2))


def untied() -> Spec[Recipe]:
    """Layers 0 1 [1'] 2; the repeat is executed from the middle of the run on. All parameters have weight decay."""
    repeats = part(LoopWithUntiedMLP, first_layer=1, last_layer=1, since=0.5)
    model = toy_model().replace(
        layers=4, weight_sharing=(repeats,), layer_schedule=part(UNet, order=repeats, skip=part(GatedSkip))
    )
    recipe = toy_recipe(steps=STEPS).replace(model=model)
    return recipe.edit(Muon, replace(weight_decay=0.1)).edit(Adam, replace(weight_decay=0.1))


def factored() -> Spec[Recipe]:
    return toy_recipe(steps=STEPS).replace(model=toy_model().replace(embed=part(FactoredEmbedding, width=12)))


def steps(trainer: Trainer, first: int, last: int) -> list[float]:
    return [float(trainer.step(step, TrainingProgress(step, STEPS, 0.0, 0.0))) for step in range(first, last)]


RECIPES = pytest.mark.parametrize("recipe", [recursive, untied, factored])


@RECIPES
def test_trained_packed_and_read_back(
    recipe: Callable[[], Spec[Recipe]], data: Path, tmp_path: Path, ids: Tensor
) -> None:
    """The model from the artifact gives the logits of the decoded weights, and its shared matrices stay shared."""
    trainer = make_trainer(data, recipe())
    losses = steps(trainer, 0, STEPS)
    assert losses[-1] < losses[0]
    kinds, rules = parameter_roles(trainer.model), recipe()().quantize
    weights = {path: p.detach() for path, p in trainer.model.named_parameters()}
    codes = encode_model(weights, kinds, rules)
    write_model(tmp_path / "artifact.bg", recipe(), codes, (data / "tokenizer.model").read_bytes())
    read = load_model(tmp_path / "artifact.bg").model
    assert parameter_roles(read) == kinds
    decoded = decode_model(codes, {k: tuple(w.shape) for k, w in weights.items()}, kinds, rules)
    for path, p in read.named_parameters():
        assert torch.equal(p, decoded[path]) and (p - weights[path]).abs().max() < 0.05, path
    loaded = read(ids)
    load_weights(trainer.model, decoded)
    assert torch.equal(loaded, trainer.model(ids)) and (loaded - load_like(recipe(), weights)(ids)).abs().max() > 0
    assert len(list(read.parameters())) == len(weights)


def load_like(recipe: Spec[Recipe], weights: dict[str, Tensor]) -> LM:
    model = build_on_meta(recipe().model, len(weights["embed.weight"]))
    load_weights(model, weights)
    return model


@RECIPES
def test_a_checkpoint_resumes_exactly(recipe: Callable[[], Spec[Recipe]], data: Path) -> None:
    """Resume before, at and after the switch in the middle of the run; warming up graphs changes no state."""
    through = make_trainer(data, recipe())
    states, losses = [], []
    for step in range(STEPS):
        states.append(through.clone_state())
        losses += steps(through, step, step + 1)
    for step in (2, 3, 4):
        resumed = make_trainer(data, recipe(), seed=0)
        warm_up_graphs(resumed, 1)
        resumed.load_state_dict(states[step])
        assert steps(resumed, step, STEPS) == losses[step:] and same(resumed.state_dict(), through.state_dict()), step


@RECIPES
def test_an_average_is_a_model_too(recipe: Callable[[], Spec[Recipe]], data: Path, ids: Tensor) -> None:
    trainer = make_trainer(data, recipe())
    steps(trainer, 0, STEPS)
    assert trainer.average
    means = trainer.average.result(extract_average_state(trainer.state_dict()), list(trainer.params.values()))
    model = load_like(recipe(), dict(zip(trainer.params, means, strict=True)))
    assert model(ids).isfinite().all() and (model(ids) - trainer.model(ids)).abs().max() > 1e-4


def test_weights_of_another_model_are_refused() -> None:
    model = low_rank(4, 2)(BuildContext(vocab=VOCAB))
    weights = {path: p.detach().clone() for path, p in model.named_parameters()}
    with pytest.raises(CorruptFileError, match=r"differ from the model: blocks\.1\.mixer\.q\.weight$"):
        load_weights(model, {**weights, "blocks.1.mixer.q.weight": torch.zeros(32, 32)})
    with pytest.raises(CorruptFileError, match=r"differ from the model: embed\.weight$"):
        load_weights(model, {**weights, "embed.weight": torch.zeros(3, 32)})


# ---- repeats with separate MLPs -----------------------------------------------------------------------------


def test_the_virtual_layers_of_1204() -> None:
    """Eleven layers, of which 4 and 5 are repeated: 13 blocks, 11 of them executed before the switch."""
    (start, before), (since, after) = part(LoopWithUntiedMLP, first_layer=4, last_layer=5)().phases(13)
    assert (start, since) == (0.0, 0.48)
    assert list(before) == [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12] and list(after) == list(range(13))
    unet = UNet(BuildContext(vocab=4, dim=1, layers=13), order=part(LoopWithUntiedMLP, first_layer=4, last_layer=5))
    assert len(unet.skip.weight) == 6  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"repeats are layers 6 to 7, but there are 7 layers"):
        part(LoopWithUntiedMLP, first_layer=4, last_layer=5)().phases(7)
    for wrong in ({"first_layer": 5, "last_layer": 4}, {"first_layer": 4, "last_layer": 5, "since": 0.0}):
        with pytest.raises(RecipeError, match=r"cannot repeat layers"):
            part(LoopWithUntiedMLP, **cast(dict[str, Any], wrong))()


def test_only_the_mixers_matrices_are_shared() -> None:
    model = untied()().model(BuildContext(vocab=VOCAB))
    source, repeat = blocks_of(model)[1:3]
    shared = {path for path, p in repeat.named_parameters() if p is source.get_parameter(path)}
    assert shared == {f"mixer.{name}.weight" for name in ("q", "k", "v", "out")}
    assert not repeat.get_parameter("mlp.up.weight").any() and source.get_parameter("mlp.up.weight").any()
    flat = toy_model().replace(layers=3)(BuildContext(vocab=VOCAB))
    own = sum(p.numel() for path, p in repeat.named_parameters() if path not in shared)
    assert count(model) - 4 * 32 == count(flat) + own, "besides two gated skips"


def test_when_it_comes_on_a_repeat_is_the_loop_of_tied_layers(ids: Tensor) -> None:
    """At the switch the logits equal those of three layers with one looped; afterwards the MLPs diverge."""
    model = untied()().model(BuildContext(vocab=VOCAB))
    disturb(model, keep=blocks_of(model)[2])
    order = part(LoopedLayers, first_layer=1, last_layer=1, since=(0.5,))
    looped = toy_model().replace(layers=3, layer_schedule=part(UNet, order=order, skip=part(GatedSkip)))(
        BuildContext(vocab=VOCAB)
    )
    looped.layer_schedule.load_state_dict(model.layer_schedule.state_dict())
    looped.embed.load_state_dict(model.embed.state_dict())
    for mine, theirs in enumerate((0, 1, 3)):
        looped.blocks[mine].load_state_dict(model.blocks[theirs].state_dict())
    for now in (TrainingProgress(2, 6, 0.0, 0.0), TrainingProgress(3, 6, 0.0, 0.0), TrainingProgress(4, 6, 0.0, 0.0)):
        update_parts(model, now)
        update_parts(looped, now)
        assert torch.allclose(model(ids), looped(ids), atol=1e-5), now
    with torch.no_grad():
        blocks_of(model)[1].get_parameter("mlp.up.weight").mul_(2.0)
        kept = blocks_of(model)[2].get_parameter("mlp.up.weight").clone()
    update_parts(model, TrainingProgress(5, 6, 0.0, 0.0))
    assert torch.equal(blocks_of(model)[2].get_parameter("mlp.up.weight"), kept), "copied only once"


def disturb(model: LM, keep: nn.Module) -> None:
    torch.manual_seed(1)
    own = {id(p) for p in matrices(keep).values()} - {id(p) for p in matrices(blocks_of(model)[1]).values()}
    with torch.no_grad():
        for p in model.parameters():
            if id(p) not in own:
                p.add_(0.2 * torch.randn_like(p))


def update_parts(model: nn.Module, progress: TrainingProgress) -> None:
    for module in model.modules():
        if hasattr(module, "phase_starts"):
            cast(Any, module).update(progress)


def test_before_its_moment_a_repeat_stays_blank_and_at_it_it_is_a_copy(data: Path) -> None:
    trainer = make_trainer(data, untied())
    source, repeat = blocks_of(trainer.model)[1:3]
    steps(trainer, 0, 3)
    assert not any(w.any() for path, w in matrices(repeat).items() if path.startswith("mlp"))
    copied: list[bool] = []
    repeat.mlp.register_forward_hook(
        lambda *_: copied.append(all(torch.equal(p, source.get_parameter(k)) for k, p in repeat.named_parameters()))
    )
    steps(trainer, 3, 5)
    assert copied[0] and not copied[-1], "equal at the switch, trained separately afterwards"
    assert torch.equal(repeat.get_parameter("mixer.q.weight"), source.get_parameter("mixer.q.weight"))
