"""GPTQ against its definition: a naive implementation, limiting cases, invariances, and refused input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bitgolf.config.spec import part
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.grids.integer import IntGrid
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.quantize.codecs.gptq import GPTQ, InverseCholesky, columnwise
from bitgolf.quantize.stats import MatrixStats
from helpers.examples import examples

GRID, STEP = IntGrid(bits=4), 0.1


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_hessian(columns: int, seed: int, *, tokens: int | None = None) -> Tensor:
    """A Hessian of correlated inputs with a mean and different scales; full rank unless `tokens` is small."""
    g, tokens = draw(seed), tokens or 4 * columns
    mixed = torch.randn(tokens, columns, generator=g) @ torch.randn(columns, columns, generator=g)
    x = (mixed + 2) * torch.logspace(-0.5, 0.5, columns)[torch.randperm(columns, generator=g)]
    return x.T @ x / tokens


def some_weights(rows: int, columns: int, seed: int) -> Tensor:
    return 0.3 * torch.randn(rows, columns, generator=draw(seed + 1000))


def stats_of(hessian: Tensor, rows: int) -> MatrixStats:
    return MatrixStats(hessian, torch.ones(rows), 1)


def solved(w: Tensor, hessian: Tensor, solver: GPTQ, grid: IntGrid = GRID) -> Tensor:
    """The codes, with the step `STEP` for all weights."""
    return solver.quantize(w[None], [solver.factorize(hessian)], torch.tensor(STEP), grid.quantize)[0]


def naive(w: Tensor, hessian: Tensor, *, damping: float, activation: bool) -> Tensor:
    """The definition, in float64: fix a column, then set all later ones to the minimum of the cost given those fixed.

    With columns F fixed and L remaining, tr(E H Eᵀ) is minimal for E_L = -E_F H_FL H_LL⁻¹, where E is the original
    weight minus the decoded one. The target values of L are therefore w_L - E_L.
    """
    h, plain, columns = hessian.double().numpy().copy(), w.double().numpy(), len(hessian)
    h += damping * np.diag(h).mean() * np.eye(columns)
    order = np.argsort(-np.diag(hessian.numpy()), kind="stable") if activation else np.arange(columns)
    codes, error = np.zeros(plain.shape), np.zeros(plain.shape)
    for turn, j in enumerate(order):
        fixed, left = order[:turn], order[turn:]
        moved = plain[:, left] + error[:, fixed] @ h[np.ix_(fixed, left)] @ np.linalg.inv(h[np.ix_(left, left)])
        codes[:, j] = np.clip(np.round(moved[:, 0] / STEP), GRID.qmin, GRID.qmax)
        error[:, j] = plain[:, j] - codes[:, j] * STEP
    return torch.from_numpy(codes).to(torch.int8)


def trace(w: Tensor, codes: Tensor, hessian: Tensor) -> float:
    error = w.double() - STEP * codes.double()
    return float(((error @ hessian.double()) * error).sum())


# ---- what it finds --------------------------------------------------------------------------------------------------


@settings(max_examples=examples(60), deadline=None)
@given(
    columns=st.integers(1, 12),
    block=st.sampled_from([1, 3, 128]),
    activation=st.booleans(),
    damping=st.sampled_from([0.0, 0.01, 0.3]),
    seed=st.integers(0, 10_000),
)
def test_it_is_the_definition(columns: int, block: int, activation: bool, damping: float, seed: int) -> None:
    """Equal to the naive implementation, except for float32 ties: the codes of at most one row may differ."""
    w, h = some_weights(20, columns, seed), some_hessian(columns, seed)
    solver = GPTQ(damping=damping, block=block, order="activation" if activation else "given")
    differ = (solved(w, h, solver) != naive(w, h, damping=damping, activation=activation)).any(1)
    assert differ.sum() <= 1


@settings(max_examples=examples(40), deadline=None)
@given(
    bits=st.integers(2, 8),
    rows=st.integers(1, 6),
    columns=st.integers(1, 40),
    block=st.integers(1, 50),
    size=st.sampled_from([1e-6, 1.0, 1e6]),
    seed=st.integers(0, 1000),
)
def test_with_the_identity_it_rounds_to_the_nearest(
    bits: int, rows: int, columns: int, block: int, size: float, seed: int
) -> None:
    """With a multiple of the identity as Hessian; through the codec bit for bit as without a solver."""
    w, plain = some_weights(rows, columns, seed), IntRows(bits=bits)
    for damping in (0.0, 0.01):
        codec = IntRows(bits=bits, solver=part(GPTQ, damping=damping, block=block))
        found = codec.encode(w, stats_of(size * torch.eye(columns), rows))
        assert all(np.array_equal(found[name], array) for name, array in plain.encode(w).items())
        assert all(np.array_equal(codec.encode(w)[name], array) for name, array in plain.encode(w).items())


def test_it_loses_less_than_rounding_to_the_nearest() -> None:
    """tr(E H Eᵀ) for 60 random Hessians: never above rounding to the nearest, and at most half of it on average."""
    ratios = []
    for seed in range(60):
        w, h = some_weights(24, 24, seed), some_hessian(24, seed)
        nearest = GRID.quantize(w, torch.tensor(STEP))
        ratios.append(trace(w, solved(w, h, GPTQ()), h) / trace(w, nearest, h))
    assert max(ratios) < 1.0 and sum(ratios) / len(ratios) < 0.5


def test_it_loses_less_where_inputs_are_hardly_correlated() -> None:
    """For almost uncorrelated inputs the gain vanishes, without becoming a loss."""
    ratios = []
    for seed in range(60):
        x = torch.randn(400, 16, generator=draw(seed))
        w, h = some_weights(64, 16, seed), x.T @ x / 400
        ratios.append(trace(w, solved(w, h, GPTQ()), h) / trace(w, GRID.quantize(w, torch.tensor(STEP)), h))
    mean = sum(ratios) / len(ratios)
    assert 0.85 < mean < 1.0


@pytest.mark.parametrize("order", ["activation", "given"])
def test_the_block_changes_nothing(order: str) -> None:
    """The codes do not depend on `block`, except for float32 rounding in very few of 60,000 codes."""
    w, h = some_weights(300, 200, 1), some_hessian(200, 1)
    codes = [solved(w, h, GPTQ(block=block, order=order)) for block in (1, 7, 64, 128, 200, 1000)]  # pyright: ignore[reportArgumentType]
    for other in codes[1:]:
        assert (other != codes[0]).double().mean() < 1e-3
        assert abs(trace(w, other, h) / trace(w, codes[0], h) - 1) < 1e-3


@settings(max_examples=examples(40), deadline=None)
@given(columns=st.integers(2, 24), activation=st.booleans(), seed=st.integers(0, 1000))
def test_columns_may_come_in_any_order(columns: int, activation: bool, seed: int) -> None:
    """With order `activation`, permuting columns permutes codes; `given` on sorted columns gives the same codes."""
    w, h = some_weights(16, columns, seed), some_hessian(columns, seed)
    to = torch.randperm(columns, generator=draw(seed))
    if activation:
        plain, permuted = solved(w, h, GPTQ()), solved(w[:, to], h[to][:, to], GPTQ())
        same = plain[:, to] == permuted
    else:
        by_size = torch.argsort(h.diagonal(), descending=True, stable=True)
        given_order = solved(w[:, by_size], h[by_size][:, by_size], GPTQ(order="given"))
        same = solved(w, h, GPTQ())[:, by_size] == given_order
    assert (~same).any(1).sum() <= 1, "but for a tie of float32"


def test_turns_go_from_the_largest_input_to_the_smallest() -> None:
    """Columns are rounded by decreasing input; without rounding error each has its original values."""
    w, h, seen = some_weights(2, 9, 3), some_hessian(9, 3), list[Tensor]()
    solver = GPTQ(block=4)
    solver.quantize_columns(
        w[None], [solver.factorize(h)], columnwise(lambda turn, column: (seen.append(column[0].clone()), column)[1])
    )
    assert torch.equal(torch.stack(seen, 1), w[:, h.diagonal().argsort(descending=True)])


@settings(max_examples=examples(60), deadline=None)
@given(bits=st.integers(2, 8), full=st.booleans(), scale=st.sampled_from([0.01, 1.0, 100.0]), seed=st.integers(0, 1000))
def test_codes_stay_within_their_range(bits: int, full: bool, scale: float, seed: int) -> None:
    """Error feedback may push weights far outside the grid; codes are clamped and decodable."""
    w, h = scale * some_weights(5, 12, seed), some_hessian(12, seed, tokens=3)
    codec = IntRows(bits=bits, full_range=full, solver=part(GPTQ))
    code = codec.encode(w, stats_of(h, 5))
    assert code["codes"].min() >= codec.grid.qmin and code["codes"].max() <= codec.grid.qmax
    assert torch.isfinite(codec.decode(code, (5, 12))).all()


def test_errors_reach_the_bound_of_their_pivots() -> None:
    """Without clipping the cost is exactly Σ (e / U_jj)², on which bit allocation relies."""
    w, h = some_weights(8, 10, 5), some_hessian(10, 5)
    solver, lost = GPTQ(damping=0.0), torch.zeros(8, dtype=torch.float64)
    factor, read = solver.factorize(h), torch.zeros_like(w)

    def rounded(turn: int, column: Tensor) -> Tensor:
        values = (column / STEP).round() * STEP
        lost.add_(((column[0] - values[0]) / factor.upper[turn, turn]).double().square())
        read[:, factor.permutation[turn]] = values[0]
        return values

    solver.quantize_columns(w[None], [factor], columnwise(rounded))
    error = (w - read).double()
    assert torch.allclose(lost, ((error @ h.double()) * error).sum(1), rtol=1e-3)


def test_the_matrix_itself_is_left_alone() -> None:
    w, h = some_weights(4, 6, 0), some_hessian(6, 0)
    h[2], h[:, 2] = 0.0, 0.0
    before, hessian = w.clone(), h.clone()
    solved(w, h, GPTQ(block=2))
    assert torch.equal(w, before) and torch.equal(h, hessian)


@settings(max_examples=examples(40), deadline=None)
@given(
    matrices=st.integers(2, 5),
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    block=st.sampled_from([1, 7, 128]),
    seed=st.integers(0, 1000),
)
def test_matrices_that_are_solved_together_come_out_as_alone(
    matrices: int, rows: int, columns: int, block: int, seed: int
) -> None:
    """Bit for bit, with a Hessian, order and dead columns for each matrix."""
    weights = [some_weights(rows, columns, seed + i) for i in range(matrices)]
    hessians = [some_hessian(columns, seed + i) for i in range(matrices)]
    hessians[0][0], hessians[0][:, 0] = 0.0, 0.0
    solver = GPTQ(block=block)
    factors = [solver.factorize(h) for h in hessians]
    together = solver.quantize(torch.stack(weights), factors, torch.tensor(STEP), GRID.quantize)
    for w, h, codes in zip(weights, hessians, together, strict=True):
        assert torch.equal(codes, solved(w, h, solver))


def test_the_number_of_operations_does_not_grow_with_the_matrices() -> None:
    """14 operations per column (kernel launches on a GPU), for any number of matrices of one shape."""

    def operations(matrices: int) -> int:
        solver, w = GPTQ(block=64), torch.stack([some_weights(8, 128, i) for i in range(matrices)])
        factors = [solver.factorize(some_hessian(128, i)) for i in range(matrices)]
        with Counted() as counted:
            solver.quantize(w, factors, torch.tensor(STEP), GRID.quantize)
        return counted.launches

    alone, together = operations(1), operations(11)
    assert alone <= 15 * 128 and together < 1.05 * alone + 11 * 10


def test_all_is_done_where_the_matrices_are_and_no_number_is_waited_for() -> None:
    """On the meta device, a CPU tensor or the read of a value raises an error."""
    solver, w = GPTQ(block=4), torch.stack([some_weights(3, 10, i) for i in range(2)]).to("meta")
    factors = [InverseCholesky(*(x.to("meta") for x in solver.factorize(some_hessian(10, i)))) for i in range(2)]
    kept = torch.ones_like(w, dtype=torch.bool)
    codes = solver.quantize(w, factors, torch.ones(2, 3, 1, device="meta"), GRID.quantize, kept)
    assert codes.device.type == "meta" and codes.shape == w.shape and codes.dtype == torch.int8


class Counted(TorchDispatchMode):
    """Counts operations other than views, and refuses those that read a value from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in str(func), "no waiting for the GPU"
        self.launches += not func.is_view
        return func(*args, **(kwargs or {}))


# ---- Hessians that lack something -----------------------------------------------------------------------------------


@settings(max_examples=examples(40), deadline=None)
@given(
    dead=st.sets(st.integers(0, 9), min_size=1, max_size=9), block=st.sampled_from([1, 4, 128]), seed=st.integers(0, 99)
)
def test_a_dead_column_is_zero_and_moves_nothing(dead: set[int], block: int, seed: int) -> None:
    """The other columns get the same codes as without the dead columns, whatever the weights in those.

    In the mean that scales the damping, a dead column counts as 1 (as published).
    """
    live = [j for j in range(10) if j not in dead]
    w, h = some_weights(6, 10, seed), some_hessian(10, seed)
    w[:, sorted(dead)] = 1e4
    for j in dead:
        h[j], h[:, j] = 0.0, 0.0
    codes = solved(w, h, GPTQ(block=block))
    assert not codes[:, sorted(dead)].any()
    diagonal = h.diagonal()[live].double()
    alone = GPTQ(block=block, damping=0.01 * float((diagonal.sum() + len(dead)) / 10 / diagonal.mean()))
    assert torch.equal(codes[:, live], solved(w[:, live], h[live][:, live], alone))


def test_where_nothing_was_seen_all_is_zero() -> None:
    assert not solved(some_weights(3, 5, 0), torch.zeros(5, 5), GPTQ()).any()


def test_one_column_and_one_weight() -> None:
    for rows in (1, 7):
        w = some_weights(rows, 1, 0)
        assert torch.equal(solved(w, torch.tensor([[3.0]]), GPTQ()), GRID.quantize(w, torch.tensor(STEP)))


@pytest.mark.parametrize("tokens", [1, 5, 15])
def test_fewer_tokens_than_columns_want_damping(tokens: int) -> None:
    """With damping, most of the error moves to directions without input; without damping an error is raised."""
    w, h = some_weights(32, 32, 0), some_hessian(32, 0, tokens=tokens)
    codes = solved(w, h, GPTQ())
    assert trace(w, codes, h) < 0.5 * trace(w, GRID.quantize(w, torch.tensor(STEP)), h)
    with pytest.raises(BitgolfError, match="not positive definite") as error:
        GPTQ(damping=0.0).factorize(h)
    assert error.value.hint == "calibrate on more text, or raise the damping"


@pytest.mark.parametrize("where", [(0, 0), (3, 3), (1, 4)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_what_is_not_finite_is_refused(where: tuple[int, int], value: float, damping: float) -> None:
    i, j = where
    h = some_hessian(5, 0)
    h[i, j] = h[j, i] = value
    with pytest.raises(BitgolfError, match="is not finite"):
        GPTQ(damping=damping).factorize(h)


def test_a_hessian_of_another_width_is_refused() -> None:
    for columns in (3, 5):
        with pytest.raises(BitgolfError, match=rf"4 columns.*{columns}"):
            solved(some_weights(2, 4, 0), torch.eye(columns), GPTQ())


@pytest.mark.parametrize("wrong", [{"damping": -0.1}, {"damping": float("nan")}, {"block": 0}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match=r"damping must be at least 0, got|at least 1 column, got 0") as error:
        GPTQ(**wrong)  # pyright: ignore[reportArgumentType]
    assert error.value.where == f"GPTQ.{next(iter(wrong))}"
