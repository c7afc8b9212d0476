"""Observed inputs and gradients of each matrix, in every kind of model; the model is left unchanged."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.config.spec import part
from bitgolf.errors import BitgolfError
from bitgolf.model.attention.values import ValueEmbedding
from bitgolf.model.layer_schedule import PhasedLayerSchedule, UNet
from bitgolf.model.linear import Linear
from bitgolf.model.lm import LM
from bitgolf.model.mlp import SwiGLU
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.parameters import parameter_roles
from bitgolf.model.residual import EmbeddingNorm
from bitgolf.model.weight_sharing import LoopWithUntiedMLP
from bitgolf.quantize.calibration.observe import StatsAccumulator, matrix_stats, observe
from bitgolf.recipes import get_recipe
from helpers.observed_models import MODELS, some_ids
from helpers.recipe_cover import all_but_exhaustive, covering_recipes, part_classes
from helpers.small_recipes import VOCAB as RECIPE_VOCAB
from helpers.small_recipes import small_recipe
from helpers.toy import VOCAB, built, toy_model

MODELS["gated MLP"] = toy_model().replace(block=toy_model()["block"].replace(mlp=part(SwiGLU, hidden=40)))
MODELS["bigrams"] = toy_model().replace(
    post_embed=(part(HashedNGramEmbedding, buckets=16, width=8, trigrams=True), part(EmbeddingNorm))
)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> LM:
    return built(MODELS[request.param])


def inputs_by_hand(model: LM, ids: Tensor) -> tuple[dict[str, Tensor], Counter[str]]:
    """Path -> Σ x xᵀ of the inputs of that parameter, and path -> number of products, from torch's own calls."""
    paths = {id(p): path for path, p in model.named_parameters()}
    sums, calls = dict[str, Tensor](), Counter[str]()
    plain = F.linear

    def watching(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        path, flat = paths[id(w)], x.double().flatten(0, -2)
        sums[path] = sums.get(path, 0) + flat.T @ flat
        calls[path] += 1
        return plain(x, w, bias)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(F, "linear", watching)
        model(ids)
    return sums, calls


# ---- inputs ---------------------------------------------------------------------------------------------------------


def test_hessians_are_those_of_the_true_inputs(model: LM) -> None:
    """For every matrix and the head, by path; summed over repeated calls and over blocks that share a matrix."""
    ids = some_ids()
    by_hand, _ = inputs_by_hand(model, ids)
    sums = observe(model, [ids])
    kinds = parameter_roles(model)
    assert sums.hessian_owner.keys() == {path for path in by_hand if kinds[path] in ("matrix", "head", "embedding")}
    assert {path for path, role in kinds.items() if role in ("matrix", "head")} <= sums.hessian_owner.keys()
    for path, first in sums.hessian_owner.items():
        assert torch.allclose(sums.hessians[first].double(), by_hand[path], rtol=1e-4, atol=1e-3), path
    assert sums.tokens == ids.numel()


def test_the_tied_head_is_seen_and_what_it_reads() -> None:
    model, ids = built(MODELS["plain"]), some_ids()
    x = model.hidden(model.forward_context(ids)).flatten(0, 1)
    assert torch.allclose(observe(model, [ids]).hessians["embed.weight"], x.T @ x, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", ["plain", "looped", "tied blocks"])
def test_a_layer_is_seen_as_often_as_it_is_visited(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the list of layers of the layer schedule."""
    model, calls = built(MODELS[kind]), Counter[str]()
    plain = StatsAccumulator.add_inputs

    def counting(self: StatsAccumulator, path: str, x: Tensor) -> None:
        calls[path] += 1
        plain(self, path, x)

    monkeypatch.setattr(StatsAccumulator, "add_inputs", counting)
    observe(model, [some_ids()])
    paths = {id(p): path for path, p in model.named_parameters()}
    blocks = [cast(Any, model.blocks[i]) for i in cast(PhasedLayerSchedule, model.layer_schedule).visits]
    assert len(blocks) == {"plain": 3, "looped": 7, "tied blocks": 6}[kind]
    for read in (lambda b: b.mixer.q, lambda b: b.mixer.out, lambda b: b.mlp.down):
        expected = Counter(paths[id(read(block).weight)] for block in blocks)
        assert {path: calls[path] for path in expected} == dict(expected)


def test_q_k_and_v_share_one_hessian() -> None:
    """The two inputs of a gated MLP also share one; no other matrices do."""
    stats = matrix_stats(observe(built(MODELS["gated MLP"]), [some_ids()]))
    for i in range(3):
        q, k, v = (stats[f"blocks.{i}.mixer.{name}.weight"] for name in "qkv")
        assert q.hessian is k.hessian is v.hessian and not torch.equal(k.output_fisher, v.output_fisher)
        assert stats[f"blocks.{i}.mlp.gate.weight"].hessian is stats[f"blocks.{i}.mlp.up.weight"].hessian
    assert len({id(s.hessian) for s in stats.values()}) == 3 * 4 + 1


def test_a_matrix_that_shares_its_input_only_at_times_is_refused() -> None:
    sums, x, y = StatsAccumulator(), torch.ones(1, 2, 3), torch.ones(1, 2, 3)
    sums.add_inputs("a", x)
    sums.add_inputs("b", x)
    with pytest.raises(BitgolfError, match="shares its input with a in one call but not in another") as error:
        sums.add_inputs("b", y)
    assert error.value.where == "b"


def test_batches_apart_are_the_batches_together() -> None:
    """The sums over separate batches equal those over all batches, for any batch sizes."""
    model, ids = built(MODELS["looped"]), some_ids(6)
    whole, apart = observe(model, [ids]), observe(model, ids.split(2))
    one, other = observe(model, [ids[:2]]), observe(model, [ids[2:]])
    for path, hessian in whole.hessians.items():
        for summed in (apart.hessians[path], one.hessians[path] + other.hessians[path]):
            assert torch.allclose(summed, hessian, rtol=1e-4, atol=1e-3), path
    for path, counts in whole.lookup_counts.items():
        assert torch.equal(counts, one.lookup_counts[path] + other.lookup_counts[path])
    assert whole.tokens == apart.tokens == one.tokens + other.tokens
    assert whole.hessian_owner == apart.hessian_owner == one.hessian_owner


def test_a_batch_goes_through_the_model_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward passes have at most `TOKENS_PER_FORWARD` tokens or one row; the sums are unchanged."""
    model, ids, seen = built(MODELS["plain"]), some_ids(5), list[int]()
    whole = observe(model, [ids])
    model.blocks[0].register_forward_hook(lambda _, inputs, y: seen.append(inputs[0].shape[0]))
    for tokens, rows in ((45, [2, 2, 1]), (7, [1] * 5), (100, [5])):
        monkeypatch.setattr("bitgolf.quantize.calibration.observe.TOKENS_PER_FORWARD", tokens)
        pieces = observe(model, [ids])
        assert seen == rows and pieces.tokens == whole.tokens and pieces.hessian_owner == whole.hessian_owner
        for path, hessian in whole.hessians.items():
            assert torch.allclose(pieces.hessians[path], hessian, rtol=1e-4, atol=1e-3), path
        seen.clear()


def test_under_autocast_sums_are_float32() -> None:
    """The forward pass multiplies in bfloat16, but the Gram matrices of inputs are computed in float32."""
    model, ids, seen = built(MODELS["plain"]), some_ids(), list[Tensor]()
    plain = observe(model, [ids])
    model.get_submodule("blocks.2.mlp.down").register_forward_hook(lambda _, inputs, y: seen.append(inputs[0].detach()))
    low = observe(model, [ids], autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    assert {t.dtype for d in (low.hessians, low.output_fisher, low.lookup_gradients) for t in d.values()} == {
        torch.float32
    }
    path, flat = low.hessian_owner["blocks.2.mlp.down.weight"], seen[0].float().flatten(0, 1)
    assert torch.equal(low.hessians[path], flat.T @ flat)
    assert not torch.equal(low.hessians[path], plain.hessians[path])
    scale = plain.hessians[path].max().item()
    assert torch.allclose(low.hessians[path], plain.hessians[path], rtol=0.1, atol=0.03 * scale)


def test_lookups_are_counted() -> None:
    """Bigrams and trigrams in one table are two lookups per token; unused rows have the share 0."""
    model, ids = built(MODELS["bigrams"]), some_ids()
    table = cast(HashedNGramEmbedding, model.post_embed[0])
    sums = observe(model, [ids])
    assert torch.equal(sums.lookup_counts["embed.weight"], torch.bincount(ids.flatten(), minlength=VOCAB).float())
    tokens = table.tokens(model.forward_context(ids))
    slots = torch.stack([table.hash.bucket_ids(tokens[:n], 16) for n in (2, 3)])
    assert torch.equal(
        sums.lookup_counts["post_embed.0.table.weight"], torch.bincount(slots.flatten(), minlength=16).float()
    )
    shares = matrix_stats(sums)["post_embed.0.table.weight"].output_fisher
    assert shares.sum() == pytest.approx(1.0) and shares[0] == (slots == 0).double().mean().item()


# ---- gradients ------------------------------------------------------------------------------------------------------


def test_outputs_are_the_squared_gradients_of_drawn_targets(model: LM) -> None:
    """Against autograd: the squared gradient of an added output δ, summed over all uses and positions."""
    ids = some_ids()
    sums = observe(model, [ids], seed=3)
    linears = [m for m in model.modules() if isinstance(m, Linear)]
    outputs = list[tuple[str, Any]]()
    paths = {id(p): path for path, p in model.named_parameters()}
    hooks = [
        m.register_forward_hook(lambda m, _, y: outputs.append((paths[id(cast(Any, m).weight)], y))) for m in linears
    ]
    logits = model(ids).flatten(0, 1)
    generator = torch.Generator().manual_seed(3)
    drawn = torch.multinomial(logits.detach().softmax(1), 1, generator=generator).squeeze(1)
    gradients = torch.autograd.grad(F.cross_entropy(logits, drawn, reduction="sum"), [y for _, y in outputs])
    for hook in hooks:
        hook.remove()
    by_hand = dict[str, Tensor]()
    for (path, _), g in zip(outputs, gradients, strict=True):
        by_hand[path] = by_hand.get(path, 0) + g.flatten(0, -2).square().sum(0)
    assert by_hand.keys() == sums.output_fisher.keys() - {"embed.weight"}
    for path, squares in by_hand.items():
        assert torch.allclose(sums.output_fisher[path], squares, rtol=1e-3, atol=1e-6 * float(squares.max())), path


def test_a_tied_table_pays_for_its_lookups_too() -> None:
    """Lookups raise the sensitivity of a row above that of the head alone, and never lower it."""
    model, ids = built(MODELS["plain"]), some_ids()
    sums = observe(model, [ids])
    both = matrix_stats(sums)["embed.weight"]
    error = torch.eye(VOCAB)[:, :1] * torch.randn(32, generator=torch.Generator().manual_seed(0))
    sums.lookup_counts.clear()
    head = matrix_stats(sums)["embed.weight"]
    assert both.cost(torch.ones(VOCAB, 32)).sum() > head.cost(torch.ones(VOCAB, 32)).sum()
    assert both.cost(error).shape == (VOCAB,) and not both.cost(error)[1:].any()
    assert both.cost(error).sum() > 0


def test_what_comes_to_nothing_costs_nothing() -> None:
    """A matrix whose output is unused has inputs, and zero gradients."""
    spec = toy_model().replace(post_embed=(part(ValueEmbedding, width=8, value_dim=16), part(EmbeddingNorm)))
    stats = matrix_stats(observe(built(spec), [some_ids()]))
    assert (
        stats["post_embed.0.project.weight"].hessian.any()
        and not stats["post_embed.0.project.weight"].output_fisher.any()
    )
    assert not stats["post_embed.0.table.weight"].hessian.any()


# ---- every recipe ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", all_but_exhaustive(covering_recipes(part_classes)))
def test_every_recipe_is_seen_whole(name: str) -> None:
    """Each matrix, embedding and head has statistics of its shape; scales and gates (`F.linear` of a slice) have none."""
    recipe = small_recipe(get_recipe(name))
    model = built(recipe().model, vocab=RECIPE_VOCAB)
    stats = matrix_stats(observe(model, [some_ids(2, 32, vocab=RECIPE_VOCAB)]))
    kinds = parameter_roles(model)
    assert stats.keys() == {path for path, role in kinds.items() if role in ("matrix", "embedding", "head")}
    for path, known in stats.items():
        rows, columns = model.get_parameter(path).shape
        assert known.hessian.shape == (columns, columns) and known.output_fisher.shape == (rows,), path
        assert known.hessian.any() and known.output_fisher.any() and (known.output_fisher >= 0).all(), path
    large = {path for path, p in model.named_parameters() if p.ndim > 1} - stats.keys()
    assert {kinds[path] for path in large} <= {"scale", "gate"}


def test_repeats_that_share_are_known_by_their_first_path() -> None:
    repeats = part(LoopWithUntiedMLP, first_layer=1, last_layer=1)
    spec = toy_model().replace(layers=4, layer_schedule=part(UNet, order=repeats), weight_sharing=(repeats,))
    model, ids = built(spec), some_ids()
    by_hand, calls = inputs_by_hand(model, ids)
    sums = observe(model, [ids])
    assert calls["blocks.1.mixer.q.weight"] == 2 and calls["blocks.2.mlp.up.weight"] == 1
    assert "blocks.2.mixer.q.weight" not in sums.hessian_owner
    q = sums.hessians[sums.hessian_owner["blocks.1.mixer.q.weight"]]
    assert torch.allclose(q.double(), by_hand["blocks.1.mixer.q.weight"], rtol=1e-4, atol=1e-3)


# ---- no trace -------------------------------------------------------------------------------------------------------
