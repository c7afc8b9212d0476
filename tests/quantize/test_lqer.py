"""LQER: limiting cases, no increase of the error, choice of matrices, size, and damaged codes."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitgolf.config.parse import from_json
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, make_node, part
from bitgolf.errors import BitgolfError, CorruptFileError, RecipeError
from bitgolf.grids.clip import MaxClip
from bitgolf.pack.byte_coders import Brotli
from bitgolf.pack.coder_selection import SmallestCoder
from bitgolf.pack.coders import Coder, RangeCoder
from bitgolf.pack.streams import pack_tensors, unpack_tensors
from bitgolf.quantize.codecs.codec import Codec, Float, IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.codecs.joint_encoding import RuleWeights
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.lqer_factors import AsymmetricFactors, LowRankFactors, PerRowFactors
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.encoding import context_models, decode_model, encode_model, layout
from bitgolf.quantize.size_forecast import forecast_bytes
from bitgolf.quantize.stats import MatrixStats
from helpers.examples import examples

Choose = Literal["frobenius", "hessian"]
Scope = Literal["rule", "recipe"]
INNER = part(IntRows, bits=3, clip=part(MaxClip))


class ExactFactors(LowRankFactors):
    """A test double that stores factors in float32, the best case of a correction."""

    def __init__(self) -> None:
        pass

    def arrays(self, rows: int, columns: int, rank: int) -> dict[str, Any]:
        return {"left": (np.dtype(np.float32), (rows, rank)), "right": (np.dtype(np.float32), (columns, rank))}

    def bits(self, rows: int, columns: int, rank: int) -> int:
        return 32 * rank * (rows + columns)

    def quantize(self, left: Tensor, right: Tensor, solve: Any = None) -> dict[str, Any]:
        return {"left": left.float().numpy(), "right": right.float().T.contiguous().numpy()}

    def dequantize(self, code: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(code["left"]), torch.from_numpy(code["right"]).T


FACTORS: list[Spec[LowRankFactors]] = [
    part(AsymmetricFactors),
    part(AsymmetricFactors, group_size=6, max_code=2.5),
    part(PerRowFactors),
    part(PerRowFactors, bits=2),
    part(ExactFactors),
]


def weight(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def known(rows: int, columns: int, *, seed: int = 0, spread: float = 1.0) -> MatrixStats:
    """Statistics with inputs in few directions and of different scales, and outputs likewise."""
    inputs = weight(2 * columns, columns, seed=seed) @ (weight(columns, columns, seed=seed + 1) / columns**0.5)
    inputs = inputs * (spread * weight(columns, seed=seed + 2)).exp()
    return MatrixStats(inputs.T @ inputs / len(inputs), (spread * weight(rows, seed=seed + 3)).exp(), len(inputs))


def error(codec: Codec, w: Tensor, stats: MatrixStats | None = None) -> Tensor:
    return w - codec.decode(codec.encode(w, stats), tuple(w.shape))


# ---- the repair itself -----------------------------------------------------------------------------------------------


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

SHAPES = {"a": (96, 64), "b": (64, 96), "c": (31, 17), "v": (64,)}
KINDS = {"a": "matrix", "b": "matrix", "c": "matrix", "v": "scale"}


def rules(codec: Spec[Codec]) -> tuple[Spec[Rule], ...]:
    return part(Rule, where="matrix", use=codec), part(Rule, where="*", use=part(Float, dtype="float16"))


INNERS = (INNER, part(TrellisCodec, bits=2.0, states=4))
FACTORS_OF_PATHS = (part(AsymmetricFactors, group_size=6), part(PerRowFactors), part(ExactFactors))
PACKERS = (part(RangeCoder, variance_contexts=True), part(SmallestCoder, coders=(part(RangeCoder), part(Brotli))))


@pytest.mark.parametrize(
    ("inner", "factors", "coder"),
    [  # each of the factors once, and with them each of the others
        pytest.param(
            INNERS[i], FACTORS_OF_PATHS[j], PACKERS[k], marks=[] if i == k == j % 2 else [pytest.mark.exhaustive]
        )
        for i, j, k in itertools.product(range(2), range(3), range(2))
    ],
)
def test_a_model_with_repairs_survives_packing(
    inner: Spec[Codec], factors: Spec[LowRankFactors], coder: Spec[Coder]
) -> None:
    use = rules(part(LQER, codec=inner, top_k=2, metric="hessian", factors=factors))
    state = {path: weight(*shape, seed=i) for i, (path, shape) in enumerate(SHAPES.items())}
    stats = {path: known(*shape, spread=0.5) for path, shape in SHAPES.items() if len(shape) == 2}
    codes = encode_model(state, KINDS, use, stats)
    assert sum(codes[path]["left"].any() for path in "abc") == 2
    found = context_models(SHAPES, KINDS, use)
    sections = {s.name: s for s in pack_tensors(codes, KINDS, coder, found)}
    back = unpack_tensors(sections, layout(SHAPES, KINDS, use), KINDS, coder, found)
    before, after = decode_model(codes, SHAPES, KINDS, use), decode_model(back, SHAPES, KINDS, use)
    assert all(torch.equal(before[path], after[path]) for path in SHAPES)
    plain = decode_model(encode_model(state, KINDS, rules(inner), stats), SHAPES, KINDS, rules(inner))
    assert sum(not torch.equal(plain[path], after[path]) for path in SHAPES) == 2


@pytest.mark.parametrize("factors", [part(AsymmetricFactors), part(PerRowFactors)])
def test_matrices_without_repair_cost_next_to_nothing(factors: Spec[LowRankFactors]) -> None:
    """67 matrices of 512 x 512, 3 of them corrected, against those 3 alone."""
    codec = part(LQER, codec=INNER, top_k=3, factors=factors)
    weights = {f"m{i:02}": weight(512, 512, seed=i) for i in (7, 30, 66)}
    alone = dict(codec().fit_encode(weights, {}).codes)
    nothing = {name: np.zeros(size, kind) for name, (kind, size) in codec().array_specs((512, 512)).items()}
    paths = [f"m{i:02}" for i in range(67)]

    def bytes_of(codes: dict[str, Any]) -> int:
        kinds, shapes = dict.fromkeys(codes, "matrix"), dict.fromkeys(codes, (512, 512))
        known = context_models(shapes, kinds, (part(Rule, where="*", use=codec),))
        found = pack_tensors(codes, kinds, part(RangeCoder), known)
        return sum(
            len(s.data) for s in found if s.name.split(".")[1] in ("left", "right", "left_scales", "right_scales")
        )

    assert all(code["left"].any() for code in alone.values())
    few, all_of_them = bytes_of(alone), bytes_of({path: alone.get(path, nothing) for path in paths})
    assert few > 3000 and all_of_them < 1.02 * few + 150, (few, all_of_them)


def test_the_forecast_counts_the_factors() -> None:
    """They do not grow with the number of matrices; the forecast is compared with the actual bytes."""
    shapes = {f"m{i}": (1024, 256) for i in range(3)}
    kinds, coder = dict.fromkeys(shapes, "matrix"), part(RangeCoder)
    for choose in ("frobenius", "hessian"):
        use = (part(Rule, where="*", use=part(LQER, codec=part(IntRows), metric=choose, top_k=2)),)
        found = forecast_bytes(shapes, kinds, use, coder)
        state = {path: 0.3 * weight(*shape, seed=i) for i, (path, shape) in enumerate(shapes.items())}
        packed = pack_tensors(encode_model(state, kinds, use), kinds, coder, context_models(shapes, kinds, use))
        factors = sum(len(s.data) for s in packed if s.name not in ("matrix.codes", "matrix.scales"))
        assert 0.6 * found["LQER"] < factors < found["LQER"], "before entropy coding"


# ---- refusals --------------------------------------------------------------------------------------------------------


def altered(code: dict[str, Any], name: str, value: float) -> dict[str, Any]:
    array = code[name].copy()
    array.reshape(-1)[3 % array.size] = value
    return {**code, name: array}


def test_hostile_codes_are_damage() -> None:
    w = weight(40, 64)
    for factors, ends in ((part(AsymmetricFactors), [(-2, 1), (-8, 7)]), (part(PerRowFactors, bits=3), [(-3, 3)] * 2)):
        codec = LQER(codec=INNER, factors=factors)
        good = codec.encode(w)
        for name, (low, top) in zip(("left", "right"), ends, strict=True):
            for value in (low, top):
                codec.decode(altered(good, name, value), (40, 64))
            for value in (low - 1, top + 1, -128, 127):
                with pytest.raises(CorruptFileError, match="outside"):
                    codec.decode(altered(good, name, value), (40, 64))
        for name in ("left_scales", "right_scales"):
            for value in (np.nan, np.inf, -0.5):
                with pytest.raises(CorruptFileError, match="scale"):
                    codec.decode(altered(good, name, value), (40, 64))
        hostile = [{**good, "left": good["left"][:, :-1]}, {**good, "more": good["left"]}, altered(good, "codes", 99)]
        hostile += [{**good, "right": good["right"].astype(np.int16)}, {k: v for k, v in good.items() if k != "right"}]
        for code in hostile:
            with pytest.raises(CorruptFileError):
                codec.decode(code, (40, 64))
    exact = LQER(codec=INNER, factors=part(ExactFactors))
    for value in (np.nan, np.inf):
        with pytest.raises(CorruptFileError, match="float32"):
            exact.decode(altered(exact.encode(w), "left", value), (40, 64))


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data(), factors=st.sampled_from(FACTORS))
def test_any_bytes_decode_to_finite_weights_or_are_damage(data: st.DataObject, factors: Spec[LowRankFactors]) -> None:
    codec, code = LQER(codec=INNER, rank=2, factors=factors), {}
    for name, (dtype, size) in codec.array_specs((4, 6)).items():
        count = int(np.prod(size)) * dtype.itemsize
        few = st.lists(st.sampled_from([0, 1, 255, 60]), min_size=count, max_size=count).map(bytes)
        raw = data.draw(st.one_of(few, st.binary(min_size=count, max_size=count)))
        code[name] = np.frombuffer(bytearray(raw), dtype).reshape(size)
    with suppress(CorruptFileError):
        assert torch.isfinite(codec.decode(code, (4, 6))).all()


def test_an_error_names_its_matrix() -> None:
    weights = {"fine": weight(8, 8), "bad": weight(8, 8)}
    weights["bad"][2, 3] = float("nan")
    with pytest.raises(BitgolfError, match="bad: a weight is not finite"):
        LQER(codec=INNER).fit_encode(weights, {})
    not_one = MatrixStats(torch.full((8, 8), float("nan")), torch.ones(8), 1)
    with pytest.raises(BitgolfError, match="fine: the Hessian of the calibration is not finite"):
        LQER(codec=INNER, metric="hessian").fit_encode({"fine": weight(8, 8)}, {"fine": not_one})


def test_what_a_recipe_may_say() -> None:
    node = part(LQER, codec=part(TrellisCodec, bits=3.0), rank=2, metric="hessian", factors=part(PerRowFactors, bits=5))
    assert from_json(node.to_json()) == node
    built = node()
    assert built.needs_calibration and "codes" in built.context_coded and "left" in built.context_coded
    assert not LQER(codec=INNER).needs_calibration and LQER(codec=INNER, metric="hessian").needs_calibration
    wrong: list[dict[str, Any]] = [
        {"rank": 0},
        {"top_k": 0},
        {"damping": -1.0},
        {"codec": part(LQER, codec=INNER)},
    ]
    for setting in wrong:
        with pytest.raises(RecipeError):
            LQER(**{"codec": INNER, **setting})
    factors = [
        (PerRowFactors, {"bits": 9}),
        (AsymmetricFactors, {"group_size": 0}),
        (AsymmetricFactors, {"max_code": 0.5}),
    ]
    for cls, values in factors:
        with pytest.raises(RecipeError):
            make_node(cls, values, "factors")


# ---- choice among several rules ----------------------------------------------------------------------------------------


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
