"""LQER: limiting cases, no increase of the error, choice of matrices, size, and damaged codes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip
from bitgolf.quantize.codecs.codec import Codec, Float, IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.codecs.joint_encoding import RuleWeights
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.lqer_factors import LowRankFactors, PerRowFactors
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.encoding import decode_model, encode_model
from bitgolf.quantize.stats import MatrixStats
from helpers.examples import examples
from helpers.low_rank_corrections import FACTORS, INNER, ExactFactors, error, known, weight

Choose = Literal["frobenius", "hessian"]
Scope = Literal["rule", "recipe"]


@pytest.mark.parametrize("choose", ["frobenius", "hessian"])
@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (1, 9), (9,), (2, 3, 7)])
def test_at_full_rank_exact_factors_give_the_weights_back(choose: Choose, shape: tuple[int, ...]) -> None:
    w, columns = weight(*shape), shape[-1]
    stats = known(w.numel() // columns, columns)
    codec = LQER(codec=INNER, rank=99, metric=choose, factors=part(ExactFactors))
    assert error(INNER(), w).abs().max() > 0.05
    assert error(codec, w, stats).abs().max() < 3e-6


@pytest.mark.parametrize("rank", [1, 4, 7])
def test_the_residual_is_that_of_eckart_and_young(rank: int) -> None:
    w = weight(48, 30)
    left = error(LQER(codec=INNER, rank=rank, factors=part(ExactFactors)), w)
    spectrum = torch.linalg.svdvals(error(INNER(), w).double())
    assert float(left.double().square().sum()) == pytest.approx(float(spectrum[rank:].square().sum()), rel=1e-5)


@pytest.mark.parametrize("rank", [1, 4])
def test_weighted_no_other_cut_costs_less(rank: int) -> None:
    """The weighted decomposition is optimal in the metric of calibration, up to the damping of the Hessian."""
    w, stats = weight(48, 30), known(48, 30)
    codec = LQER(codec=INNER, rank=rank, metric="hessian", factors=part(ExactFactors), damping=1e-6)
    root = torch.linalg.cholesky(stats.hessian.double() + 1e-9 * torch.eye(30))
    spectrum = torch.linalg.svdvals(stats.output_fisher.double().sqrt()[:, None] * (error(INNER(), w).double() @ root))
    best = 0.5 * float(spectrum[rank:].square().sum())
    assert float(stats.cost(error(codec, w, stats)).sum()) == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("bits", [3, 4, 6])
@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_weighted_is_never_worse_than_plain_factors(bits: int, spread: float, seed: int) -> None:
    """For weights with heavy tails, rounding the factors often undoes what the weighted decomposition gains."""
    uniform = torch.rand(64, 96, generator=torch.Generator().manual_seed(seed))
    w, stats = weight(64, 96, seed=seed) / uniform.clamp_min(1e-4), known(64, 96, seed=seed, spread=spread)
    inner = part(IntRows, bits=bits, clip=part(MaxClip))
    costs = {
        metric: float(stats.cost(error(LQER(codec=inner, metric=metric), w, stats)).sum())
        for metric in ("frobenius", "hessian")
    }
    assert costs["hessian"] <= costs["frobenius"] * (1 + 1e-6)
    assert costs["hessian"] < float(stats.cost(error(inner(), w, stats)).sum())


@settings(max_examples=examples(150), deadline=None)
@given(
    shape=st.sampled_from([(1, 1), (5,), (16, 16), (33, 8), (8, 33), (64, 32)]),
    factors=st.sampled_from(FACTORS),
    choose=st.sampled_from(["frobenius", "hessian"]),
    inner=st.sampled_from([INNER, part(IntRows, bits=4, solver=part(GPTQ)), part(Float, dtype="float32")]),
    rank=st.integers(1, 9),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 1e4]),
    spread=st.sampled_from([0.0, 1.0, 3.0]),
    seed=st.integers(0, 1000),
)
def test_a_repair_never_harms(
    shape: tuple[int, ...],
    factors: Spec[LowRankFactors],
    choose: Choose,
    inner: Spec[Codec],
    rank: int,
    scale: float,
    spread: float,
    seed: int,
) -> None:
    w = scale * weight(*shape, seed=seed)
    stats = known(w.numel() // shape[-1], shape[-1], seed=seed, spread=spread)
    codec = LQER(codec=inner, rank=rank, metric=choose, factors=factors)
    codes, repairs, _ = codec.corrected([RuleWeights(codec, {"w": w})], {"w": stats}, EncodingSession())
    code, repair = codes["w"], repairs["w"]
    assert {name: (a.dtype, a.shape) for name, a in code.items()} == codec.array_specs(shape)
    without, repaired = (e.reshape(-1, shape[-1]) for e in (error(inner(), w, stats), w - codec.decode(code, shape)))
    worth = [
        float((stats.cost(e) if choose == "hessian" else e.double().square()).double().sum())
        for e in (without, repaired)
    ]
    assert worth[1] < worth[0] if repair.kept else torch.equal(without, repaired)
    assert not repair.kept or repair.gain == pytest.approx(worth[0] - worth[1])
    assert any(code[name].any() for name in ("left", "right")) == repair.kept


def test_a_repair_that_would_harm_is_dropped_and_said() -> None:
    w, stats = weight(40, 64), known(40, 64, spread=3.0)
    codec = LQER(codec=INNER, rank=4, metric="hessian", factors=part(Broken))
    _, repairs, _ = codec.corrected([RuleWeights(codec, {"w": w})], {"w": stats}, EncodingSession())
    assert not repairs["w"].kept and repairs["w"].gain < 0
    assert torch.equal(error(codec, w, stats), error(INNER(), w, stats))
    assert "correction of no matrix; tried and not stored for 1" in codec.fit_encode({"w": w}, {"w": stats}).summary


class Broken(PerRowFactors):
    """Factors with the wrong sign."""

    def __init__(self) -> None:
        super().__init__(bits=8)

    def quantize(self, left: Tensor, right: Tensor, solve: Any = None) -> dict[str, Any]:
        return super().quantize(-left, right, solve)


def test_the_columns_of_the_right_factor_answer_for_one_another() -> None:
    """Error feedback between columns of B lowers the cost; a wide spectrum of inputs makes it necessary."""
    w, stats, inner = weight(48, 96), known(48, 96), part(IntRows, bits=4, solver=part(GPTQ))
    deaf, hearing = (
        float(stats.cost(error(LQER(codec=inner, metric="hessian", factors=factors), w, stats)).sum())
        for factors in (part(Deaf), part(PerRowFactors))
    )
    assert hearing < 0.85 * deaf


class Deaf(PerRowFactors):
    def __init__(self) -> None:
        super().__init__(bits=4)

    def quantize(self, left: Tensor, right: Tensor, solve: Any = None) -> dict[str, Any]:
        return super().quantize(left, right)


@pytest.mark.parametrize("choose", ["frobenius", "hessian"])
def test_the_largest_entry_of_each_column_is_negative_where_the_codes_reach_further(choose: Choose) -> None:
    left = LQER(codec=INNER, rank=8, metric=choose, factors=part(ExactFactors)).encode(weight(30, 40))["left"]
    assert (left[np.abs(left).argmax(0), np.arange(8)] < 0).all()


# ---- which matrices --------------------------------------------------------------------------------------------------


def test_the_weighted_choice_costs_less_than_the_published_one() -> None:
    """The largest error has no effect on the loss, and the most expensive one is not of low rank."""
    weights = {"loud": 5 * weight(64, 64), "meant": weight(64, 64, seed=1), "white": weight(64, 64, seed=2)}
    flat = MatrixStats(torch.eye(64), torch.ones(64), 1)
    stats = {"loud": MatrixStats(1e-4 * flat.hessian, flat.output_fisher, 1), "meant": known(64, 64), "white": flat}
    dearer = 1.5 * stats["meant"].cost(error(INNER(), weights["meant"])).sum()
    stats["white"] = MatrixStats(
        flat.hessian, flat.output_fisher * dearer / flat.cost(error(INNER(), weights["white"])).sum(), 1
    )

    def chosen(choose: Choose) -> tuple[set[str], float]:
        codec = LQER(codec=INNER, top_k=1, metric=choose)
        codes, repairs, _ = codec.corrected([RuleWeights(codec, weights)], stats, EncodingSession())
        cost = sum(float(stats[p].cost(w - codec.decode(codes[p], tuple(w.shape))).sum()) for p, w in weights.items())
        return {p for p, repair in repairs.items() if repair.kept}, cost

    (published, dear), (ours, cheap) = chosen("frobenius"), chosen("hessian")
    assert published == {"loud"} and ours == {"meant"}
    plain = sum(float(stats[p].cost(error(INNER(), w)).sum()) for p, w in weights.items())
    assert cheap < 0.9 * plain and cheap < dear


def test_each_matrix_is_encoded_once() -> None:
    weights = {f"m{i}": weight(16, 16, seed=i) for i in range(5)}
    Counting.calls = 0
    codes = dict(LQER(codec=part(Counting), top_k=2).fit_encode(weights, {}).codes)
    assert Counting.calls == 5 and sum(code["left"].any() for code in codes.values()) == 2


class Counting(IntRows):
    calls = 0

    def __init__(self) -> None:
        super().__init__(bits=3, clip=part(MaxClip))

    def encode(
        self, w: Tensor, stats: MatrixStats | None = None, session: EncodingSession | None = None
    ) -> dict[str, Any]:
        Counting.calls += 1
        return super().encode(w, stats, session)


# ---- a whole model ---------------------------------------------------------------------------------------------------


def two_rules(scope: Scope, *, top_k: int = 2) -> tuple[tuple[Spec[Rule[Any]], ...], dict[str, Tensor]]:
    """Rules with different codecs, and five matrices; the three with the largest errors are a.0, b.0 and a.1."""
    codecs = [
        part(LQER, codec=INNER, rank=2, top_k=top_k, scope=scope, factors=part(ExactFactors)),
        part(LQER, codec=INNER.replace(bits=4), rank=2, top_k=top_k, scope=scope, factors=part(ExactFactors)),
    ]
    rules = tuple(part(Rule, where=f"@{name}.**", use=codec) for name, codec in zip("ab", codecs, strict=True))
    sizes = {"a.0": 9.0, "a.1": 3.0, "a.2": 1.0, "b.0": 10.0, "b.1": 1.0}
    return rules, {path: size * weight(12, 10, seed=i) for i, (path, size) in enumerate(sizes.items())}


@pytest.mark.parametrize(
    ("scope", "top_k", "chosen"),
    [
        ("rule", 1, {"a.0", "b.0"}),
        ("recipe", 1, {"a.0"}),
        ("recipe", 2, {"a.0", "b.0"}),
        ("recipe", 3, {"a.0", "b.0", "a.1"}),
        ("rule", 2, {"a.0", "a.1", "b.0", "b.1"}),
    ],
)
def test_the_worst_matrices_of_all_rules(scope: Scope, top_k: int, chosen: set[str]) -> None:
    """With the scope `recipe` there is one list for all rules; each matrix keeps the codec of its own rule."""
    rules, weights = two_rules(scope, top_k=top_k)
    lines = list[str]()
    codes = encode_model(weights, dict.fromkeys(weights, "matrix"), rules, log=lines.append)
    assert {path for path, code in codes.items() if code["left"].any()} == chosen
    decoded = decode_model(
        codes, {p: tuple(w.shape) for p, w in weights.items()}, dict.fromkeys(weights, "matrix"), rules
    )
    for path, w in weights.items():
        plain = INNER.replace(bits=3 if path.startswith("a") else 4)()
        error, without = decoded[path] - w, plain.decode(plain.encode(w), (12, 10)) - w
        assert torch.equal(error, without) != (path in chosen)
    assert sum("low-rank correction of" in line for line in lines) == (1 if scope == "recipe" else 2)


def test_another_number_of_corrections_is_another_list() -> None:
    first, weights = two_rules("recipe", top_k=1)
    second, _ = two_rules("recipe", top_k=2)
    codes = encode_model(weights, dict.fromkeys(weights, "matrix"), (first[0], second[1]))
    assert {path for path, code in codes.items() if code["left"].any()} == {"a.0", "b.0", "b.1"}
