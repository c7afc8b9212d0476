"""GuidedQuant's and YAQA's Hessians: against sums by hand, equal to plain GPTQ where weights are one, and useful."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bitgolf.config.rules import Rule
from bitgolf.config.spec import part
from bitgolf.errors import CorruptFileError, RecipeError
from bitgolf.grids.integer import IntGrid
from bitgolf.model.lm import LM
from bitgolf.quantize.calibration.calibrate import Calibrate, check_calibration
from bitgolf.quantize.calibration.hessians import GuidedHessians, HessianKind, KroneckerHessians
from bitgolf.quantize.calibration.observe import matrix_stats, observe
from bitgolf.quantize.calibration.stats_file import load_calibration, save_calibration
from bitgolf.quantize.calibration.weighted_sums import WeightedSums, weighted_stats
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.codecs.hessian_codes import solve_codes
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.stats import MatrixStats, group_slices
from helpers.quantized_models import text

ROWS, COLUMNS, TOKENS = 12, 10, 400
GRID = IntGrid(bits=4)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tokens(*, even: bool) -> tuple[Tensor, Tensor]:
    """Inputs (T, C) and output gradients (T, R); even: each output has the same squared gradient at all tokens."""
    x = randn(TOKENS, COLUMNS, seed=1) @ randn(COLUMNS, COLUMNS, seed=2)
    g = randn(TOKENS, ROWS, seed=3) @ randn(ROWS, ROWS, seed=4)
    return x, g.sign() * g.square().mean(0).sqrt() if even else g * x[:, :1].square()


def plain_stats(x: Tensor, g: Tensor) -> MatrixStats:
    return MatrixStats(x.T @ x / len(x), g.square().mean(0), len(x))


def stats_of(kind: HessianKind, x: Tensor, g: Tensor) -> MatrixStats:
    sums = WeightedSums(kind)
    sums.start("w", x, g.shape[1])
    for rows in torch.arange(len(x)).split(150):
        sums.add("w", x[rows], g[rows])
    return weighted_stats(sums, "w", plain_stats(x, g))


def codes_of(w: Tensor, stats: MatrixStats, step: Tensor, solver: GPTQ | None = None) -> Tensor:
    solver = solver or GPTQ()
    ones = torch.ones(1, *w.shape, dtype=torch.bool)
    return solve_codes(solver, GRID, (w[None], ones, step[None]), [stats.factorize(solver)], [stats])[0]


def full_cost(error: Tensor, x: Tensor, g: Tensor) -> float:
    """½ mean over tokens of (gᵀ E x)²: the predicted increase of the loss, without assumptions of independence."""
    return float(0.5 * ((g @ error) * x).sum(1).square().mean())


# ---- statistics ------------------------------------------------------------------------------------------------------


def test_each_group_has_the_mean_weighted_by_its_gradients() -> None:
    x, g = tokens(even=False)
    stats = stats_of(GuidedHessians(row_groups=5), x, g)
    assert stats.row_hessians is not None and stats.row_hessians.shape == (5, COLUMNS, COLUMNS)
    for rows, found in zip(group_slices(ROWS, 5), stats.row_hessians, strict=True):
        weights = g[:, rows].double().square().sum(1)
        want = (x.double().T * weights) @ x.double() / weights.sum()
        torch.testing.assert_close(found.double(), want, rtol=1e-4, atol=1e-4)
    assert [s.stop - s.start for s in group_slices(ROWS, 5)] == [2, 2, 3, 2, 3] and len(group_slices(3, 8)) == 3


def test_the_predicted_cost_is_that_of_uncorrelated_outputs() -> None:
    """With one group per row, the cost of an error in one row is exact: ½ mean (g_i (E x)_i)²."""
    x, g = tokens(even=False)
    stats = stats_of(GuidedHessians(row_groups=ROWS), x, g)
    error = randn(ROWS, COLUMNS, seed=7)
    want = 0.5 * (g.double() * (x @ error.T).double()).square().mean(0)
    torch.testing.assert_close(stats.cost(error).double(), want, rtol=1e-4, atol=0)
    plain = plain_stats(x, g).cost(error)
    assert (plain / want - 1).abs().max() > 0.2


def test_equal_weights_give_the_plain_hessian() -> None:
    x, g = tokens(even=True)
    plain = plain_stats(x, g)
    grouped, single = (stats_of(GuidedHessians(row_groups=n), x, g) for n in (3, 1))
    assert grouped.row_hessians is not None and single.row_hessians is None
    for found in (*grouped.row_hessians, single.hessian):
        torch.testing.assert_close(found, plain.hessian, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(
        stats_of(GuidedHessians(row_groups=1), *tokens(even=False)).hessian, plain.hessian, rtol=0.1
    )


def test_the_kronecker_factors_are_those_of_the_formula() -> None:
    x, g = tokens(even=False)
    stats = stats_of(KroneckerHessians(), x, g)
    assert stats.output_hessian is not None
    inputs = (x.double().T * g.double().square().sum(1)) @ x.double()
    outputs = (g.double().T * x.double().square().sum(1)) @ g.double()
    torch.testing.assert_close(stats.hessian.double(), inputs / g.double().square().sum(), rtol=1e-4, atol=1e-4)
    fisher = (x.double().square().sum(1) * g.double().square().sum(1)).mean()
    factor = fisher / outputs.trace() / stats.hessian.double().trace()
    torch.testing.assert_close(stats.output_hessian.double(), outputs * factor, rtol=1e-4, atol=1e-4)
    error = randn(ROWS, COLUMNS, seed=7)
    want = 0.5 * (stats.output_hessian @ error @ stats.hessian @ error.T).trace()
    torch.testing.assert_close(stats.cost(error).sum(), want, rtol=1e-4, atol=0)


def test_one_sample_is_its_own_kronecker_product() -> None:
    """The Fisher information of a single token is a Kronecker product, so the predicted cost is exact."""
    x, g = (t[:1] for t in tokens(even=False))
    error = randn(ROWS, COLUMNS, seed=7)
    assert float(stats_of(KroneckerHessians(), x, g).cost(error).sum()) == pytest.approx(
        full_cost(error, x, g), rel=1e-4
    )


def test_a_model_is_observed(model: LM) -> None:
    """Groups of rows and outputs of every matrix but the head, next to the same plain statistics as without."""
    plain = matrix_stats(observe(model, text(0), seed=5))
    guided = matrix_stats(observe(model, text(0), seed=5, kind=GuidedHessians(row_groups=2)))
    two_sided = matrix_stats(observe(model, text(0), seed=5, kind=KroneckerHessians()))
    assert plain.keys() == guided.keys() == two_sided.keys()
    for path, stats in plain.items():
        assert torch.equal(stats.output_fisher, guided[path].output_fisher)
        rows, columns = len(stats.output_fisher), len(stats.hessian)
        head = path == "embed.weight"
        assert torch.equal(stats.hessian, two_sided[path].hessian) == head
        groups, outputs = guided[path].row_hessians, two_sided[path].output_hessian
        assert head or (groups is not None and groups.shape == (2, columns, columns))
        assert head or (outputs is not None and outputs.shape == (rows, rows))
        if groups is not None:
            total = sum(f * h for f, h in zip(
                (stats.output_fisher[s].sum() for s in group_slices(rows, 2)), groups, strict=True
            ))  # fmt: skip
            torch.testing.assert_close(total / stats.output_fisher.sum(), two_sided[path].hessian, rtol=1e-3, atol=1e-5)


def test_statistics_are_stored_and_checked(tmp_path: Path) -> None:
    x, g = tokens(even=False)
    known = {"a": stats_of(GuidedHessians(row_groups=3), x, g), "b": stats_of(KroneckerHessians(), x, g)}
    path = tmp_path / "calibration.safetensors"
    save_calibration(path, known)
    for name, stats in load_calibration(path).items():
        assert all(torch.equal(stats.tensors()[kind], t) for kind, t in known[name].tensors().items())
        assert stats.tensors().keys() == known[name].tensors().keys()
    metadata_and_tensors(path, "row_hessians:a", torch.zeros(3, 4, 4))
    with pytest.raises(CorruptFileError, match="expected float32"):
        load_calibration(path)


def metadata_and_tensors(path: Path, name: str, tensor: Tensor) -> None:
    """Replace one tensor of a file."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({**load_file(path), name: tensor}, path, metadata)


# ---- codes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["activation", "given"])
def test_unit_weights_give_the_codes_of_plain_gptq(order: str) -> None:
    """Groups with the plain Hessian, and outputs with an identity matrix: the same codes, but for rounding at ties."""
    x, g = tokens(even=False)
    plain, w, step = plain_stats(x, g), randn(ROWS, COLUMNS, seed=5), torch.linspace(0.2, 0.4, ROWS)
    solver = part(GPTQ).replace(order=order)()
    want = codes_of(w, plain, step, solver)
    grouped = plain._replace(row_hessians=plain.hessian.expand(4, COLUMNS, COLUMNS))
    outputs = plain._replace(output_hessian=3e-4 * torch.eye(ROWS))
    for stats in (grouped, outputs):
        assert (codes_of(w, stats, step, solver) != want).float().mean() < 0.01
    assert (want != GRID.quantize(w, step[:, None])).float().mean() > 0.05  # feedback changes codes


def test_two_sided_codes_are_those_of_yaqa() -> None:
    """The fixed point W' = Q(W + AᵀD + D B + AᵀD B), with unit triangular factors of both Hessians, in float64."""
    x, g = tokens(even=False)
    stats, w, step = stats_of(KroneckerHessians(), x, g), randn(ROWS, COLUMNS, seed=5), torch.linspace(0.2, 0.4, ROWS)
    assert stats.output_hessian is not None
    solver = GPTQ(order="given")
    codes = codes_of(w, stats, step, solver)
    decoded = GRID.dequantize(codes, step[:, None]).double()
    inputs, outputs = (feedback(h, solver.damping) for h in (stats.hessian, stats.output_hessian))
    d = w.double() - decoded
    target = w.double() + outputs.T @ d + d @ inputs + outputs.T @ d @ inputs
    away = ((target - decoded) / step[:, None].double()).abs()
    inside = codes.abs() < GRID.qmax
    assert (away[inside] < 0.5 + 1e-3).all() and inside.float().mean() > 0.8
    assert (d / step[:, None]).abs().max() > 0.6  # the feedback has moved weights to other codes than the nearest


def feedback(hessian: Tensor, damping: float) -> Tensor:
    """(n, n) strictly upper A of the damped H = (1 + A) D (1 + A)ᵀ with diagonal D."""
    h = hessian.double() + damping * hessian.double().diagonal().mean() * torch.eye(len(hessian)).double()
    upper = torch.linalg.cholesky(h.flip(0, 1)).flip(0, 1)  # H = R Rᵀ with R upper triangular
    return upper / upper.diagonal() - torch.eye(len(h)).double()


def test_each_kind_lowers_the_cost_it_measures() -> None:
    """Sums over several matrices. `full` assumes nothing; `rows` treats the gradients of outputs as uncorrelated."""
    x, g = tokens(even=False)
    kinds = {
        "plain": plain_stats(x, g),
        "guided": stats_of(GuidedHessians(row_groups=ROWS), x, g),
        "two-sided": stats_of(KroneckerHessians(), x, g),
    }
    full, rows, step = dict.fromkeys(kinds, 0.0), dict.fromkeys(kinds, 0.0), torch.full((ROWS,), 0.4)
    for seed in range(10):
        w = randn(ROWS, COLUMNS, seed=50 + seed)
        for name, stats in kinds.items():
            error = GRID.dequantize(codes_of(w, stats, step), step[:, None]) - w
            full[name] += full_cost(error, x, g)
            rows[name] += float(kinds["guided"].cost(error).sum())
    assert rows["guided"] < rows["plain"] < rows["two-sided"]
    assert full["two-sided"] < 0.8 * full["plain"]


@pytest.mark.parametrize("kind", [GuidedHessians(row_groups=3), KroneckerHessians()])
def test_the_codec_uses_them_and_prunes(kind: HessianKind) -> None:
    x, g = tokens(even=False)
    stats, w = stats_of(kind, x, g), {f"w{i}": randn(ROWS, COLUMNS, seed=i) for i in range(3)}
    codec = IntRows(bits=4, solver=part(GPTQ), prune=0.25)
    session = EncodingSession(2)
    known = session.to_device(dict.fromkeys(w, stats))
    assert known["w0"].tensors().keys() == stats.tensors().keys()
    found = dict(codec.encode_many(w, known, session))
    for path, one in w.items():
        alone = codec.encode(one, stats)
        assert np.array_equal(alone["codes"], found[path]["codes"])
        assert (alone["codes"] == 0).mean() >= 0.25
        plain = codec.encode(one, plain_stats(x, g))
        assert (alone["codes"] != plain["codes"]).any()


# ---- recipes ---------------------------------------------------------------------------------------------------------


def test_hessians_that_no_codec_uses_are_an_error() -> None:
    trellis = (part(Rule, where="*", use=part(TrellisCodec, bits=3.0)),)
    rows = (part(Rule, where="*", use=part(IntRows, solver=part(GPTQ))),)
    repaired = (part(Rule, where="*", use=part(LQER, codec=part(IntRows, solver=part(GPTQ)))),)
    for kind in (part(GuidedHessians), part(KroneckerHessians)):
        with pytest.raises(RecipeError, match="no codec uses the Hessians"):
            check_calibration(trellis, part(Calibrate, hessians=kind))
        check_calibration(rows, part(Calibrate, hessians=kind))
        check_calibration(repaired, part(Calibrate, hessians=kind))
    check_calibration(trellis, part(Calibrate, hessians=part(GuidedHessians, row_groups=1)))
