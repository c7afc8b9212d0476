"""The trellis codec: codes match the values given to the solver, sizes match `bits`, and damage is detected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, CorruptFileError, RecipeError
from bitgolf.grids import log_steps
from bitgolf.grids.trellis import PARITY_CHECKS
from bitgolf.pack.coders import RangeCoder
from bitgolf.pack.streams import EncodedTensor, pack_tensors, unpack_tensors
from bitgolf.quantize.codecs.bit_allocation import BitAllocation, EqualCost, EqualRate
from bitgolf.quantize.codecs.codec import Shape
from bitgolf.quantize.codecs.gptq import GPTQ, InverseCholesky, RoundBlock
from bitgolf.quantize.codecs.trellis import TrellisCodec, _row_order
from bitgolf.quantize.encoding import context_models, decode_model, encode_model, layout
from bitgolf.quantize.stats import MatrixStats, identity_stats
from helpers.examples import examples

ALLOCATIONS: list[Spec[BitAllocation]] = [part(EqualRate), part(EqualCost), part(EqualCost, matrices=False)]


def gaussian(shape: Shape, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def known(rows: int, columns: int, seed: int = 0) -> MatrixStats:
    """Statistics with correlated inputs and outputs of different sensitivity."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) / columns**0.5 + torch.eye(columns)
    inputs = torch.randn(4 * columns, columns, generator=generator) @ mix
    outputs = torch.exp(torch.randn(rows, generator=generator))
    return MatrixStats(inputs.T @ inputs / len(inputs), outputs, len(inputs))


def relative(found: Tensor, w: Tensor) -> float:
    return float((found - w).double().square().sum() / w.double().square().sum())


def same(a: EncodedTensor, b: EncodedTensor) -> bool:
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


@settings(max_examples=examples(60), deadline=None)
@given(
    states=st.sampled_from(list(PARITY_CHECKS)),
    bits=st.sampled_from([0.5, 2.0, 3.3, 6.0]),
    rate=st.sampled_from([0.0, 1.0, 2.0]),
    allocate=st.sampled_from(ALLOCATIONS),
    solve=st.sampled_from([None, part(GPTQ), part(GPTQ, block=3, order="given")]),
    shape=st.sampled_from([(), (1,), (7,), (1, 9), (9, 1), (12, 5), (2, 3, 5)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    scale=st.sampled_from([0.0, 1e-30, 1e-6, 1.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_what_is_read_back_is_what_the_solver_fed_back(
    states: int,
    bits: float,
    rate: float,
    allocate: Spec[BitAllocation],
    solve: Spec[GPTQ] | None,
    shape: Shape,
    dtype: torch.dtype,
    scale: float,
    seed: int,
) -> None:
    w = gaussian(shape, seed, scale).to(dtype)
    rows, columns = math.prod(shape[:-1]), shape[-1] if shape else 1
    codec = TrellisCodec(bits=bits, states=states, rate_weight=rate, allocation=allocate, solver=solve)
    told, feed = torch.full((rows, columns), math.nan), GPTQ.quantize_columns

    def overheard(self: GPTQ, w: Tensor, factors: Sequence[InverseCholesky], rounded: RoundBlock) -> None:
        def noted(start: int, block: Tensor, upper: Tensor) -> Tensor:
            values = rounded(start, block, upper)
            told[:, factors[0].permutation[start : start + block.shape[1]]] = values[0].T
            return values

        feed(self, w, factors, noted)

    stats = known(rows, columns, seed) if solve else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GPTQ, "quantize_columns", overheard)
        code = codec.encode(w, stats)
    back = codec.decode(code, shape)
    assert back.dtype == torch.float32 and back.shape == shape
    assert back.reshape(rows, columns)[_row_order(code)].numpy().tobytes() == told.numpy().tobytes()
    assert {name: (a.dtype, a.shape) for name, a in code.items()} == codec.array_specs(shape)
    assert same(codec.encode(w, stats), code)
    assert not back.any() if scale == 0 else torch.isfinite(back).all()


# ---- bytes and errors ----------------------------------------------------------------------------------------------


def rate_and_error(weights: dict[str, Tensor], codec: Spec[TrellisCodec]) -> tuple[float, float]:
    """Bits per weight in the packed sections, and the mean squared error of the decoded weights."""
    shapes = {path: tuple(w.shape) for path, w in weights.items()}
    roles, rules = dict.fromkeys(weights, "matrix"), (part(Rule, where="*", use=codec),)
    codes = encode_model(weights, roles, rules)
    sections = pack_tensors(codes, roles, part(RangeCoder), context_models(shapes, roles, rules))
    read = {section.name: section for section in sections}
    again = unpack_tensors(
        read, layout(shapes, roles, rules), roles, part(RangeCoder), context_models(shapes, roles, rules)
    )
    assert all(same(again[path], codes[path]) for path in weights)
    decoded = decode_model(again, shapes, roles, rules)
    count = sum(w.numel() for w in weights.values())
    error = sum(float((decoded[path] - w).double().square().sum()) for path, w in weights.items())
    return 8 * sum(len(section.data) for section in sections) / count, error / count


@cache
def pair() -> dict[str, Tensor]:
    return {"a": gaussian((512, 192), 1), "b": gaussian((256, 320), 2)}


@pytest.mark.parametrize("states", [1, 8, 64])
@pytest.mark.parametrize("bits", [2.5, 3.31, 4.5])
@pytest.mark.parametrize("allocate", ALLOCATIONS[:2], ids=repr)
def test_bytes_are_the_bits_that_were_asked_for(states: int, bits: float, allocate: Spec[BitAllocation]) -> None:
    rate, _ = rate_and_error(pair(), part(TrellisCodec, bits=bits, states=states, allocation=allocate, solver=None))
    assert rate == pytest.approx(bits, rel=0.03)


def test_states_bring_the_error_nearer_to_the_limit() -> None:
    gaps = {}
    for states in (1, 8, 64):
        rate, error = rate_and_error(pair(), part(TrellisCodec, bits=3.31, states=states, solver=None))
        gaps[states] = rate + 0.5 * math.log2(error)
    assert 0.24 < gaps[1] < 0.28 and 0.05 < gaps[8] < 0.10 and 0.03 < gaps[64] < gaps[8] - 0.015


def test_minding_bits_pays_where_they_are_few() -> None:
    gap = {}
    for rate in (0.0, 1.0):
        found, error = rate_and_error(pair(), part(TrellisCodec, bits=2.0, states=8, rate_weight=rate, solver=None))
        gap[rate] = found + 0.5 * math.log2(error)
    assert gap[1.0] < gap[0.0] - 0.02


def test_steps_follow_what_errors_cost() -> None:
    """step² x Fisher x Hessian is constant up to the rounding of logarithmic steps, for any order of columns."""
    inputs = torch.tensor([0.3, 4.0, 1.0, 2.0, 0.5, 8.0])
    stats = MatrixStats(torch.diag(inputs), torch.tensor([1.0, 3.0, 0.2, 1.0]), 10)
    code = TrellisCodec(bits=4, states=8, solver=part(GPTQ, damping=0.0)).encode(gaussian((4, 6)), stats)
    steps = log_steps.decode_log_steps(code["rows"])[:, None] * log_steps.decode_log_steps(code["columns"])
    cost = np.log2(steps.astype(np.float64) ** 2 * stats.output_fisher.numpy()[:, None] * inputs.numpy())
    assert np.ptp(cost) <= 8 / 16 + 1e-6 and np.ptp(code["rows"]) > 8 and np.ptp(code["columns"]) > 8


def test_equal_cost_loses_less_than_equal_rate_for_the_same_bits() -> None:
    w, stats = gaussian((256, 96), 5), known(256, 96)

    def lost(allocate: Spec[BitAllocation], solve: Spec[GPTQ] | None) -> float:
        codec = TrellisCodec(bits=3.0, states=8, allocation=allocate, solver=solve)
        return float(stats.cost(codec.decode(codec.encode(w, stats), (256, 96)) - w).sum())

    plain, solved = lost(part(EqualRate), None), lost(part(EqualRate), part(GPTQ))
    assert solved < 0.97 * plain and lost(part(EqualCost), part(GPTQ)) < 0.85 * solved


# ---- the global step -----------------------------------------------------------------------------------------------


def test_matrices_of_a_rule_share_one_unit() -> None:
    weights = {"a": gaussian((256, 64), 1), "b": gaussian((128, 64), 2, 0.05), "c": gaussian((64, 64), 3, 4.0)}
    codec = TrellisCodec(bits=3.0, states=8)
    stats = {path: identity_stats(*w.shape) for path, w in weights.items()}
    encoding = codec.fit_encode(weights, stats)
    codes = dict(encoding.codes)
    assert codes.keys() == weights.keys() and "3 bits per weight over 3 matrices" in encoding.summary
    assert {path: same(codes[path], codec.encode(w, stats[path])) for path, w in weights.items()} == {
        "a": False,
        "b": False,
        "c": False,
    }, "a codec keeps nothing of what it was fitted to"
    steps = [
        float(code["global_step"][0]) * float(log_steps.decode_log_steps(code["rows"])[0]) for code in codes.values()
    ]
    assert steps == pytest.approx([steps[0]] * 3)  # without statistics all errors cost the same
    spent = {path: float(np.abs(code["codes"].astype(float)).mean()) for path, code in codes.items()}
    assert spent["b"] < 0.2 * spent["a"] < spent["c"]


def test_a_matrix_alone_is_fitted_to_itself() -> None:
    w, codec = gaussian((64, 32)), TrellisCodec(bits=3.0, states=4)
    assert same(codec.encode(w), dict(codec.fit_encode({"a": w}, {}).codes)["a"])
    assert same(codec.encode(w), codec.encode(w, identity_stats(64, 32)))


# ---- odd weights ---------------------------------------------------------------------------------------------------

ODD = {
    "one row": gaussian((1, 300)),
    "one column": gaussian((300, 1)),
    "vector": gaussian((300,)),
    "constant rows": torch.ones(40, 30) * torch.linspace(0.5, 2, 40)[:, None],
    "constant": torch.full((20, 30), -0.7),
    "a zero row": torch.cat([torch.zeros(1, 30), gaussian((60, 30))]),
    "a zero column": torch.cat([torch.zeros(60, 1), gaussian((60, 30))], 1),
    "tiny": gaussian((60, 30), 0, 1e-6),
    "huge": gaussian((60, 30), 0, 1e4),
    "an outlier": torch.cat([gaussian((60, 30)), torch.full((1, 30), 20.0)]),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("allocate", ALLOCATIONS, ids=repr)
@pytest.mark.parametrize("states", [1, 8])
def test_odd_weights_are_held_as_well_as_others(name: str, allocate: Spec[BitAllocation], states: int) -> None:
    w = ODD[name]
    codec = TrellisCodec(bits=4.5, states=states, allocation=allocate, solver=None)
    assert relative(codec.decode(codec.encode(w), tuple(w.shape)), w) < 0.01


@pytest.mark.parametrize("states", [1, 8])
def test_nothing_is_lost_at_the_ends_of_what_an_index_holds(states: int) -> None:
    """A column that is 10,000 times as sensitive would get steps too small for its weights; its step is raised."""
    hessian = torch.eye(64)
    hessian[5, 5] = 1e4
    w, stats = gaussian((256, 64)), MatrixStats(hessian, torch.ones(256), 10)
    codec = TrellisCodec(bits=3.3, states=states)
    error = (codec.decode(codec.encode(w, stats), (256, 64)) - w).square().mean(0)
    assert error[5] <= error.median() < 0.1  # and the other columns hardly lose accuracy


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_matrix_of_zeros_beside_others_stays_zero(rate: float) -> None:
    """As zero-initialized matrices before training, whose standard deviation is far below the common step."""
    weights = {"w": 1e6 * gaussian((24, 12)), "zero": torch.zeros(24, 12)}
    stats = {"w": known(24, 12), "zero": known(24, 12)._replace(output_fisher=torch.full((24,), 1e-9))}
    codec = TrellisCodec(bits=2.0, states=4, rate_weight=rate)
    codes = dict(codec.fit_encode(weights, stats).codes)
    assert not codec.decode(codes["zero"], (24, 12)).any() and codec.decode(codes["w"], (24, 12)).any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    w, codec = gaussian((4, 5)), TrellisCodec(bits=3)
    w[1, 2] = bad
    with pytest.raises(BitgolfError, match="not finite"):
        codec.encode(w)
    with pytest.raises(BitgolfError, match="not finite"):
        codec.fit_encode({"a": w}, {})


# ---- damage --------------------------------------------------------------------------------------------------------


def test_codes_of_other_shapes_and_units_that_are_none_are_damage() -> None:
    codec = TrellisCodec(bits=3, states=8)
    code = codec.encode(gaussian((4, 6)))
    damaged: list[EncodedTensor] = [
        code | {"global_step": np.array([unit], np.float32)} for unit in (0, -1, math.nan, math.inf, 3e38)
    ]
    damaged.append(code | {"global_step": np.array([1e30], np.float32), "rows": np.full(4, 255, np.uint8)})
    damaged.append(damaged[-1] | {"codes": np.zeros((4, 6), np.int8), "columns": np.full(6, 255, np.uint8)})
    damaged.append(code | {"rows": code["rows"][:3]})
    damaged.append({name: array for name, array in code.items() if name != "columns"})
    for wrong in damaged:
        with pytest.raises(CorruptFileError):
            codec.decode(wrong, (4, 6))
    with pytest.raises(CorruptFileError):
        codec.decode(code, (6, 4))


@settings(max_examples=examples(150), deadline=None)
@given(data=st.data(), states=st.sampled_from(list(PARITY_CHECKS)), unit=st.floats(width=32))
def test_any_code_of_the_shape_is_weights_or_damage(data: st.DataObject, states: int, unit: float) -> None:
    def drawn(count: int) -> np.ndarray:
        return np.frombuffer(data.draw(st.binary(min_size=count, max_size=count)), np.uint8)

    code = {"codes": drawn(12).view(np.int8).reshape(4, 3), "rows": drawn(4), "columns": drawn(3)}
    try:
        w = TrellisCodec(bits=3, states=states).decode(code | {"global_step": np.array([unit], np.float32)}, (4, 3))
    except CorruptFileError:
        return
    assert w.shape == (4, 3) and torch.isfinite(w).all()


def test_impossible_settings_are_refused() -> None:
    for bad in (
        lambda: part(TrellisCodec, bits=0.0),
        lambda: part(TrellisCodec, bits=7.5),
        lambda: part(TrellisCodec, bits=3.0, rate_weight=-1.0),
    ):
        with pytest.raises(RecipeError):
            bad()
    with pytest.raises(RecipeError):
        TrellisCodec(bits=3.0, states=5)
