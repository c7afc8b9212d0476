"""Contract tests for all model parts. They are collected from the registry, so that new parts are included."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append
from bitgolf.config.registry import import_all_parts
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.cores.sdpa import DocumentMask, SDPACore
from bitgolf.model.decoding.incremental import IncrementalDecoder
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.head import UntiedHead
from bitgolf.model.interfaces import ResidualStreamPart
from bitgolf.model.linear import Embedding
from bitgolf.model.lm import LM
from bitgolf.model.parameters import parameter_roles
from bitgolf.model.part import Part
from helpers.every_part import (
    ACROSS_LAYERS,
    AROUND,
    QUIET,
    all_model_parts,
    example_node,
    model_with_part,
    models_with_several_parts,
    short_model,
    smallest_model,
)
from helpers.toy import VOCAB, built, toy_model

ROLES = {"embedding", "matrix", "head", "scale", "gate"}


@pytest.fixture(params=all_model_parts(), ids=lambda c: c.__name__)
def cls(request: pytest.FixtureRequest) -> type:
    return request.param


@pytest.fixture
def ids() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, VOCAB, (2, 24), generator=generator)
    ids[:, 0] = 1
    ids[:, 12] = 1
    return ids


def changed(ids: Tensor, start: int, stop: int) -> Tensor:
    other = ids.clone()
    other[:, start:stop] = (other[:, start:stop] - 2 + 7) % (VOCAB - 2) + 2
    return other


def test_there_are_parts() -> None:
    assert len(all_model_parts()) > 15


def assert_compiles(spec: Spec[LM], ids: Tensor) -> None:
    """In one graph, with the logits of the eager model."""
    model = built(spec)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert (compiled(ids) - model(ids)).abs().max() < 1e-5


def alone(cls: type) -> Any:
    """The parts that are compiled alone; of the others, each is compiled with others of other kinds."""
    single = issubclass(cls, ACROSS_LAYERS) or cls in AROUND
    return pytest.param(cls, marks=[] if single else [pytest.mark.exhaustive], id=cls.__name__)


@pytest.mark.parametrize("cls", [alone(cls) for cls in all_model_parts()])
def test_full_graph_and_same_numbers_when_compiled(cls: type, ids: Tensor) -> None:
    assert_compiles(smallest_model(cls), ids)


@pytest.mark.parametrize(
    ("spec", "parts"),
    models_with_several_parts(),
    ids=lambda value: "" if isinstance(value, Spec) else value[0].__name__,
)
def test_full_graph_and_same_numbers_with_several_parts(spec: Spec[LM], parts: list[type], ids: Tensor) -> None:
    assert {type(module) for module in built(spec).modules()} >= set(parts)
    assert_compiles(spec, ids)


def test_a_model_with_every_kind_of_chain_compiles_to_a_full_graph(ids: Tensor) -> None:
    assert_compiles(toy_model(), ids)


def test_causal(cls: type, ids: Tensor) -> None:
    model = built(model_with_part(example_node(cls)))
    before, after = model(ids), model(changed(ids, 9, 24))
    assert (before[:, :9] - after[:, :9]).abs().max() < 1e-5
    assert (before[:, 9:] - after[:, 9:]).abs().max() > 1e-3


def test_nothing_leaks_over_a_document_start(cls: type, ids: Tensor) -> None:
    spec = model_with_part(example_node(cls)).edit(SDPACore, append(masks=part(DocumentMask)))
    model = built(spec)
    before, after = model(ids), model(changed(ids, 1, 12))
    assert (before[:, 12:] - after[:, 12:]).abs().max() < 1e-5


@pytest.mark.parametrize("cls", [c for c in all_model_parts() if c.identity_at_init], ids=lambda c: c.__name__)  # type: ignore[attr-defined]
def test_identity_at_initialisation_where_claimed(cls: type, ids: Tensor) -> None:
    plain, more = built(toy_model()), model_with_part(example_node(cls))(BuildContext(vocab=VOCAB))
    own = dict(more.named_parameters())
    state = {name: p for name, p in plain.state_dict().items() if name in own}
    assert len(state) < len(own), "the part adds no parameter"
    more.load_state_dict(state, strict=False)
    assert (plain(ids) - more(ids)).abs().max() < 1e-6


def test_every_parameter_has_a_known_role_and_nothing_hides_in_buffers(cls: type) -> None:
    model = model_with_part(example_node(cls))(BuildContext(vocab=VOCAB))
    assert set(parameter_roles(model)) == dict(model.named_parameters()).keys()
    assert set(parameter_roles(model).values()) <= ROLES
    assert model.state_dict().keys() == set(parameter_roles(model)), (
        "an artifact stores parameters only; a part must compute constants in its forward pass"
    )


def test_the_rows_of_tables_are_known_without_a_forward_pass(cls: type, ids: Tensor) -> None:
    """`Part.lookups` has the tables and the rows of every lookup."""
    model, read = built(model_with_part(example_node(cls))), dict[Tensor, Tensor]()

    def record(table: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        read[cast(Embedding, table).weight] = inputs[0]

    for module in model.modules():
        if isinstance(module, Embedding):
            module.register_forward_pre_hook(record)
    model(ids)
    context = model.forward_context(ids)
    known = {
        table.weight: rows
        for module in model.modules()
        if isinstance(module, Part)
        for table, rows in module.lookups(context)
    }
    assert known.keys() == read.keys(), "override Part.lookups in the part that owns the table"
    assert all(torch.equal(rows, read[table]) for table, rows in known.items())


def test_switched_on_it_acts(cls: type, ids: Tensor) -> None:
    """Replacing the output of the part changes the logits of the model."""
    model = built(model_with_part(example_node(cls))).train(cast(type[Part], cls).training_only)
    calls: list[int] = []
    for module in model.modules():
        if type(module) is cls:
            module.register_forward_hook(lambda m, i, o: calls.append(1))
    before = model(ids)
    assert calls, "the part was not called"
    bypass(model, cls)
    assert model(ids).shape != before.shape or (model(ids) - before).abs().max() > 1e-6


def test_it_changes_what_the_model_says(cls: type, ids: Tensor) -> None:
    """The logits differ from those of the toy model without the part, with equal weights."""
    plain = AROUND.get(cls, lambda toy: toy)(toy_model())
    spec = model_with_part(example_node(cls))
    if spec == plain:
        return  # the toy model contains this part; other tests check its output
    if cls in QUIET:
        return
    model, without = built(spec).train(cls.training_only), built(plain).train()  # type: ignore[attr-defined]
    theirs = dict(without.named_parameters())
    same = {k: p for k, p in model.named_parameters() if k in theirs and p.shape == theirs[k].shape}
    without.load_state_dict(same, strict=False)
    assert (model(ids) - without(ids)).abs().max() > 1e-4


def test_every_parameter_moves_what_the_model_says(cls: type, ids: Tensor) -> None:
    model = built(model_with_part(example_node(cls))).train()
    model(ids).square().mean().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not still


def bypass(model: nn.Module, cls: type) -> None:
    """Replace the forward of each part of this class by one that returns other values of the same type."""
    for module in model.modules():
        if type(module) is cls:
            original = module.forward
            module.forward = lambda *a, _f=original: disturb(_f(*a))


def disturb(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(disturb, value))
    return ~value if value.dtype is torch.bool else value * 1.5 + 0.1 * torch.arange(value.shape[-1])


def test_read_piece_by_piece_it_says_the_same(cls: type, ids: Tensor) -> None:
    model = built(short_model(cls, layers=2))
    whole = model(ids)
    reader = IncrementalDecoder(model, len(ids), window=32, stride=16)
    for t in range(1, ids.shape[1]):
        assert (reader.logits - whole[:, t - 1]).abs().max() < 1e-4, t
        reader.step(ids[:, t])


@torch.no_grad()
def test_rows_of_different_lengths_say_what_each_would_say_alone(cls: type) -> None:
    """Rows are prefilled, extended or left unchanged independently of each other."""
    model, chance = built(short_model(cls, layers=2)), random.Random(3)
    window, stride = 9, 4
    reader = IncrementalDecoder(model, 3, window, stride)
    contexts = [[1], [1], [1]]
    for step in range(13):
        if step % 5 == 2:
            again = {row: [1, *chance.choices(range(1, VOCAB), k=chance.randrange(window))] for row in {step % 3, 2}}
            reader.prefill({row: torch.tensor(context) for row, context in again.items()})
            contexts = [again.get(row, context) for row, context in enumerate(contexts)]
        tokens = [chance.choice([-1, 1, *range(2, 12)]) for _ in contexts]
        reader.step(torch.tensor(tokens))
        for row, token in enumerate(tokens):
            if token >= 0:
                full = len(contexts[row]) == window
                contexts[row] = [*contexts[row][stride if full else 0 :], token]
            alone = model(torch.tensor([contexts[row]]))[0, -1]
            assert (reader.logits[row] - alone).abs().max() < 1e-4, (step, row)


def test_every_forward_has_at_most_three_ifs() -> None:
    import ast
    import inspect
    import textwrap

    for cls in [c for c in import_all_parts().values() if issubclass(c, nn.Module)]:
        if "forward" in vars(cls):
            tree = ast.parse(textwrap.dedent(inspect.getsource(vars(cls)["forward"])))
            assert sum(isinstance(n, ast.If | ast.IfExp) for n in ast.walk(tree)) <= 3, cls


# ---- negative controls: parts that the suite must reject -------------------------------------------------------------


class Leaky(ResidualStreamPart):
    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        return x + x.mean(1, keepdim=True)


class Branchy(ResidualStreamPart):
    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Silent(ResidualStreamPart):
    identity_at_init = True

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(context.dim))

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        return 1.01 * x


def test_the_suite_catches_a_part_that_sees_the_future(ids: Tensor) -> None:
    with pytest.raises(AssertionError):
        test_causal(Leaky, ids)


def test_the_suite_catches_a_part_that_breaks_the_graph(ids: Tensor) -> None:
    with pytest.raises(Exception, match=r"(?i)data-dependent"):
        test_full_graph_and_same_numbers_when_compiled(Branchy, ids)


def test_the_suite_catches_a_parameter_without_a_role_and_a_false_claim(ids: Tensor) -> None:
    with pytest.raises(Exception, match="declares no role"):
        test_every_parameter_has_a_known_role_and_nothing_hides_in_buffers(Silent)
    with pytest.raises(AssertionError):
        test_identity_at_initialisation_where_claimed(Silent, ids)


def test_an_untied_head_is_collected() -> None:
    assert UntiedHead in all_model_parts()
