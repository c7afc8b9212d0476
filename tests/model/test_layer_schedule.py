"""Looped and explicit layer orders, and gated skips: the published index lists, and the effect of each pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.build import build_on_meta
from bitgolf.model.decoding.incremental import IncrementalDecoder
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import LayerOrder, ResidualStream, SkipConnection
from bitgolf.model.layer_orders import EachLayerOnce, ExplicitLayerOrder, LoopedLayers
from bitgolf.model.layer_schedule import GatedSkip, SequentialLayers, UNet, WeightedSkip
from bitgolf.model.lm import LM
from bitgolf.model.mlp import MLP
from bitgolf.model.residual_topology import SequentialResidual
from bitgolf.recipes import get_recipe
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.graphs import warm_up_graphs
from helpers.toy import built, toy_model, toy_recipe
from helpers.toy_training import make_data, make_trainer


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(2, 64, (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def at(progress: float) -> TrainingProgress:
    return TrainingProgress(round(1000 * progress), 1000, 0.0, 0.0)


class Log(SequentialResidual):
    """Records the layers and the numbers of skips in order of execution."""

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__(context)
        self.seen: list[str] = []

    def forward(self, x: ResidualStream, context: ForwardContext, block: nn.Module) -> ResidualStream:
        self.seen.append(str(block.layer))
        return x

    def merge_skip(
        self, x: ResidualStream, skip: SkipConnection, saved: ResidualStream, j: int, block: nn.Module
    ) -> ResidualStream:
        self.seen.append(f"skip{j}")
        return x


def executed_layers(depth: UNet, layers: int) -> tuple[list[int], list[int], int]:
    """One forward pass: (layers in the encoder, layers in the decoder, number of skips)."""
    blocks = nn.ModuleList(nn.Identity() for _ in range(layers))
    for i, block in enumerate(blocks):
        block.layer = i  # type: ignore[assignment]
    log = depth.residual
    assert isinstance(log, Log)
    log.seen.clear()
    depth(torch.zeros(1, 1, 1), ForwardContext(torch.zeros(1, 1)), blocks)
    start = log.seen.index("skip0")
    encoder, rest = log.seen[:start], log.seen[start:]
    skips = [word for word in rest if word.startswith("skip")]
    assert skips == [f"skip{j}" for j in range(len(skips))]
    assert rest[: 2 * len(skips) : 2] == skips, "a skip precedes each of the first visits of the decoder"
    return [int(word) for word in encoder], [int(word) for word in rest if word not in skips], len(skips)


FLAT = ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10], 5)
ONCE_MORE = ([0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9, 10], 6)
TWICE_MORE = ([0, 1, 2, 3, 4, 5, 4], [5, 4, 5, 6, 7, 8, 9, 10], 7)
THREE_LAYERS = ([0, 1, 2, 3, 4, 5, 3, 4], [5, 3, 4, 5, 6, 7, 8, 9, 10], 8)
PUBLISHED = {
    "#1204": (
        part(LoopedLayers, first_layer=4, last_layer=5, since=(0.48,)),
        {0.0: FLAT, 0.47: FLAT, 0.48: ONCE_MORE, 1.0: ONCE_MORE},
    ),
    "#1394": (
        part(LoopedLayers, first_layer=4, last_layer=5, since=(0.5, 0.5)),
        {0.0: FLAT, 0.5: TWICE_MORE, 1.0: TWICE_MORE},
    ),
    "#1412": (
        part(LoopedLayers, first_layer=4, last_layer=5, since=(0.5, 0.65)),
        {0.49: FLAT, 0.5: ONCE_MORE, 0.65: TWICE_MORE},
    ),
    "#1493": (
        part(LoopedLayers, first_layer=3, last_layer=5),
        {0.0: FLAT, 0.34: FLAT, 0.35: THREE_LAYERS, 1.0: THREE_LAYERS},
    ),
    "always": (
        part(LoopedLayers, first_layer=3, last_layer=5, since=(0.0, 0.0)),
        {0.0: THREE_LAYERS, 1.0: THREE_LAYERS},
    ),
    "half always": (
        part(LoopedLayers, first_layer=4, last_layer=5, since=(0.0, 0.5)),
        {0.0: ONCE_MORE, 0.5: TWICE_MORE},
    ),
    "written out": (
        part(ExplicitLayerOrder, order=(*THREE_LAYERS[0], *THREE_LAYERS[1])),
        {0.0: THREE_LAYERS, 1.0: THREE_LAYERS},
    ),
}


@pytest.mark.parametrize(("order", "lists"), PUBLISHED.values(), ids=PUBLISHED)
def test_published_index_lists(order: Spec[LayerOrder], lists: dict[float, Any]) -> None:
    unet = UNet(BuildContext(vocab=4, dim=1, layers=11), order=order, residual=part(Log))
    assert executed_layers(unet, 11) == list(lists.values())[-1], "a new part is in its last phase"
    for progress, expected in lists.items():
        unet.update(at(progress))
        assert executed_layers(unet, 11) == expected, progress


FOUR_PASSES = ([0, 1, 2, 3, 4, 5, 3, 4, 5, 3], [4, 5, 3, 4, 5, 6, 7, 8, 9, 10], 8)


@pytest.mark.parametrize(
    ("passes", "evaluated"), [(3, FOUR_PASSES), (0, FLAT), (2, THREE_LAYERS), (None, THREE_LAYERS)]
)
def test_evaluation_may_have_other_passes(passes: int | None, evaluated: Any) -> None:
    """As `EVAL_NUM_LOOPS` in the harness of #1493: weights of skips are those of training, further visits have none."""
    order = part(LoopedLayers, first_layer=3, last_layer=5, evaluation_passes=passes)
    unet = UNet(BuildContext(vocab=4, dim=1, layers=11), order=order, residual=part(Log))
    assert unet.skip.weight.shape[0] == 8 and unet.phase_starts == (0.35,)  # type: ignore[union-attr]
    assert executed_layers(unet, 11) == THREE_LAYERS
    unet.eval()
    assert executed_layers(unet, 11) == evaluated
    unet.update(at(0.1))
    assert executed_layers(unet.train(), 11) == FLAT


def test_moments_are_those_at_which_the_order_changes() -> None:
    def phase_starts(*since: float) -> tuple[float, ...]:
        return SequentialLayers(
            BuildContext(vocab=4, dim=1, layers=6), order=part(LoopedLayers, first_layer=1, last_layer=2, since=since)
        ).phase_starts

    assert phase_starts(0.35, 0.35) == (0.35,) and phase_starts(0.65, 0.5) == (0.5, 0.65)
    assert phase_starts(0.0, 0.5) == (0.5,) and phase_starts(0.0) == ()


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (lambda: part(LoopedLayers, first_layer=3, last_layer=6), r"cannot loop layers 3 to 6 of 6 layers"),
        (lambda: part(LoopedLayers, first_layer=4, last_layer=3), r"cannot loop layers 4 to 3"),
        (lambda: part(LoopedLayers, first_layer=1, last_layer=2, since=()), r"each additional pass, got \(\)"),
        (
            lambda: part(LoopedLayers, first_layer=1, last_layer=2, since=(1.0,)),
            r"since\.0: must be at least 0 and below 1, got 1",
        ),
        (lambda: part(ExplicitLayerOrder, order=(0, 1, 2, 3, 4, 5, 6)), r"layer 6 does not exist in \(0, 1,"),
        (lambda: part(ExplicitLayerOrder, order=(0, 1, 2, 4, 5)), r"layer 3 is missing in \(0, 1, 2, 4, 5\)"),
    ],
)
def test_orders_that_do_not_fit_are_errors(order: Callable[[], Spec[Any]], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        SequentialLayers(BuildContext(vocab=4, dim=1, layers=6), order=order())


# ---- the effect of each pass -----------------------------------------------------------------------------------------


def looped(depth: type, order: Spec[LayerOrder], layers: int = 4) -> Spec[LM]:
    plain, gated = part(SequentialLayers, order=order), part(UNet, order=order, skip=part(GatedSkip))
    return toy_model().replace(layers=layers, layer_schedule=plain if depth is SequentialLayers else gated)


@pytest.mark.parametrize("depth", [SequentialLayers, UNet])
def test_switched_off_it_is_the_flat_model(depth: type, ids: Tensor) -> None:
    model = built(looped(depth, part(LoopedLayers, first_layer=1, last_layer=2)))
    flat = built(looped(depth, part(EachLayerOnce)))
    flat.load_state_dict(
        {k: w[: len(flat.get_parameter(k))] if "skip" in k else w for k, w in model.state_dict().items()}
    )
    on = model(ids)
    model.layer_schedule.update(at(0.34))  # type: ignore[union-attr,operator]
    assert torch.equal(model(ids), flat(ids)) and (on - flat(ids)).abs().max() > 1e-3


def test_passes_cost_no_parameters() -> None:
    def parameters(since: tuple[float, ...]) -> int:
        model = looped(SequentialLayers, part(LoopedLayers, first_layer=1, last_layer=2, since=since))(
            BuildContext(vocab=64)
        )
        return sum(p.numel() for p in model.parameters())

    assert parameters((0.0,)) == parameters((0.1, 0.2, 0.3, 0.4))
    skips = UNet(
        BuildContext(vocab=4, dim=8, layers=11),
        order=part(LoopedLayers, first_layer=3, last_layer=5),
        skip=part(GatedSkip),
    ).skip
    assert [tuple(p.shape) for p in skips.parameters()] == [(8, 8), (8, 8)], "a row for each skip of the longest order"


def test_the_gradient_of_a_looped_layer_is_the_sum_over_its_visits(ids: Tensor) -> None:
    """Compared with a model that has a layer for each visit, in float64."""
    order = (0, 1, 2, 1, 2, 1, 2, 3)
    model = built(looped(UNet, part(LoopedLayers, first_layer=1, last_layer=2))).double()
    unrolled = built(looped(UNet, part(EachLayerOnce), len(order))).double()
    unrolled.embed.load_state_dict(model.embed.state_dict())
    unrolled.layer_schedule.load_state_dict(model.layer_schedule.state_dict())
    for mine, i in zip(unrolled.blocks, order, strict=True):
        mine.load_state_dict(model.blocks[i].state_dict())
    model(ids).logsumexp(-1).mean().backward()
    unrolled(ids).logsumexp(-1).mean().backward()
    for i, block in enumerate(model.blocks):
        for path, p in block.named_parameters():
            visits = [unrolled.blocks[v].get_parameter(path).grad for v, layer in enumerate(order) if layer == i]
            total = torch.stack([g for g in visits if g is not None]).sum(0)
            assert p.grad is not None and torch.allclose(p.grad, total, atol=1e-12), (i, path)


@pytest.mark.parametrize("depth", [SequentialLayers, UNet])
def test_a_loop_reads_piece_by_piece_what_it_reads_at_once(depth: type, ids: Tensor) -> None:
    """Each visit of a layer has separate keys and values in the cache."""
    model = built(looped(depth, part(LoopedLayers, first_layer=1, last_layer=2)))
    ids[:, 0] = 1
    whole, reader = model(ids), IncrementalDecoder(model, len(ids), window=32, stride=16)
    for t in range(1, ids.shape[1]):
        assert (reader.logits - whole[:, t - 1]).abs().max() < 1e-4, t
        reader.step(ids[:, t])


def test_after_warming_up_no_switch_compiles_anything(data: Path) -> None:
    depth = part(UNet, order=part(LoopedLayers, first_layer=0, last_layer=0, since=(0.25, 0.5)), skip=part(GatedSkip))
    recipe = toy_recipe(steps=8).set("model.layers", 1).set("model.layer_schedule", depth)
    trainer = make_trainer(data, recipe, noisy=False)
    compiled: list[int] = []

    def count(graph: Any, inputs: Any) -> Any:
        compiled.append(len(list(graph.graph.nodes)))
        return graph.forward

    torch._dynamo.reset()
    graph = torch.compile(trainer.loss_module, fullgraph=True, dynamic=False, backend=count)
    trainer.plan = trainer.plan._replace(compute_loss=graph)
    warm_up_graphs(trainer, 1)
    graphs, visits = len(compiled), []
    for step in range(8):
        trainer.step(step, TrainingProgress(step, 8, 0.0, 0.0))
        visits.append(len(trainer.model.layer_schedule.visits))  # type: ignore[arg-type]
    assert visits == [1, 1, 2, 2, 3, 3, 3, 3]
    assert len(set(compiled)) == 3 and len(compiled) == graphs, "one graph for each phase, all compiled before training"


# ---- skips ------------------------------------------------------------------------------------------------------


def test_a_gated_skip_by_its_formula() -> None:
    skip = GatedSkip(BuildContext(vocab=4, dim=5).for_matrix(3, 5)).double()
    x, value = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    assert torch.equal(skip(x, value, 1), (x + value) / 2), "at initialization"
    with torch.no_grad():
        skip.weight.normal_()
        skip.gate.normal_()
    for j in range(3):
        gate = 1 / (1 + torch.exp(-skip.gate[j]))
        expected = gate * x + (1 - gate) * (skip.weight[j] * value)
        assert torch.allclose(skip(x, value, j), expected, atol=1e-14)


def test_a_skips_gate_towards_infinity_is_no_skip() -> None:
    skip, x = GatedSkip(BuildContext(vocab=4, dim=5).for_matrix(3, 5)), torch.randn(2, 4, 5)
    skip.gate.data.fill_(200.0)
    assert torch.equal(skip(x, torch.randn(2, 4, 5), 2), x)


@pytest.mark.parametrize("skip", [WeightedSkip, GatedSkip])
def test_a_looped_unet_by_hand(skip: type, ids: Tensor) -> None:
    """The layer order of #1394, with the skips computed by the test, in float64."""
    model = built(
        looped(UNet, part(LoopedLayers, first_layer=1, last_layer=2)).set("layer_schedule.skip", part(skip))
    ).double()
    weights = cast(Any, model.layer_schedule).skip
    context = ForwardContext(ids)
    x = context.x0 = model.post_embed[0](model.embed(ids), context)
    stack: list[Tensor] = []
    for i in [0, 1, 2, 1]:
        x = model.blocks[i](x, context)
        stack.append(x)
    for j, i in enumerate([2, 1, 2, 3]):
        scaled = weights.weight[j] * stack[3 - j]
        gate = weights.gate[j].sigmoid() if skip is GatedSkip else None
        x = x + scaled if gate is None else gate * x + (1 - gate) * scaled
        x = model.blocks[i](x, context)
    assert torch.allclose(model(ids), model.logits(model.norm(x)), atol=1e-10)


def test_the_parameters_of_1493() -> None:
    """35,944,536 parameters: eleven layers of width 512, 8 skips with weight and gate for 17 visits."""
    model = get_recipe("baseline")().model.replace(layers=11).edit(MLP, replace(hidden=2048))
    model = model.set(
        "layer_schedule", part(UNet, order=part(LoopedLayers, first_layer=3, last_layer=5), skip=part(GatedSkip))
    )
    assert sum(p.numel() for p in build_on_meta(model, 8192).parameters()) == 35_944_536
