"""Low-rank repair: what rounding lost in a few matrices, put back by two thin factors of few bits.

E = W - W^ is cut down to rank r by a singular value decomposition, A (R, r) times B (r, C), and W^ + A^ B^ is read back.
Sources: LQER, arXiv 2402.02446; openai/parameter-golf, pull request 1797 (ranking and packing; spec, 3.1). Ours: the
decomposition and the choice of matrices by what calibration says an error costs (spec, 16.6).
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nlargest
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import CorruptFileError, RecipeError, error_location
from bitgolf.grids.integer import IntGrid
from bitgolf.pack.byte_planes import Array
from bitgolf.pack.contexts import ContextModel
from bitgolf.pack.streams import EncodedTensor
from bitgolf.quantize.codecs.codec import ArraySpecs, Codec, RuleEncoding, Shape, matrix_shape
from bitgolf.quantize.codecs.gptq import GPTQ, RoundToGrid
from bitgolf.quantize.codecs.lqer_factors import FACTOR_ARRAYS, AsymmetricFactors, LowRankFactors
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.stats import MatrixStats, identity_stats


class LQERResult(NamedTuple):
    """What it did to one matrix, in the measure that chose it: squared error, or nats per token. Not `kept` is dropped."""

    before: float
    after: float
    kept: bool = False

    @property
    def gain(self) -> float:
        return self.before - self.after


class LQERCandidate(NamedTuple):
    """A matrix, its code without repair and what that one's error is worth."""

    w: Tensor
    stats: MatrixStats | None
    uncorrected: EncodedTensor
    cost: float


@register
class LQER(Codec):
    """Another codec and a repair of rank `rank` for the `top_k` matrices of the rule that want it most.

    choose: `frobenius` takes those with the largest ‖E‖ and the decomposition of E itself (published); `hessian` tries
    all, takes those where the repair saves the most nats per token, and cuts E down where calibration says it matters.
    damping: of the Hessian, as in `GPTQ`. A repair that does not lower the error, as it will be read back, is dropped.
    """

    def __init__(
        self,
        *,
        codec: Spec[Codec],
        rank: int = 4,
        top_k: int = 3,
        metric: Literal["frobenius", "hessian"] = "frobenius",
        factors: Spec[LowRankFactors] = part(AsymmetricFactors),
        damping: float = 0.01,
    ) -> None:
        for name, value in (("rank", rank), ("keep", top_k)):
            if value < 1:
                raise RecipeError(f"{name} is at least 1, not {value}", where=f"LQER.{name}")
        self.codec, self.factors, self.solve = codec(), factors(), GPTQ(damping=damping, order="given")
        if taken := self.codec.array_specs((1, 1)).keys() & set(FACTOR_ARRAYS):
            raise RecipeError(f"its codec has arrays of the same names ({min(taken)})", where="LQER.codec")
        self.rank, self.top_k, self.metric = rank, top_k, metric

    @property
    def context_coded(self) -> tuple[str, ...]:
        return (*self.codec.context_coded, *self.factors.arrays(1, 1, 1))

    @property
    def needs_calibration(self) -> bool:
        return self.codec.needs_calibration or self.metric == "hessian"

    def array_specs(self, shape: Shape) -> ArraySpecs:
        return {**self.codec.array_specs(shape), **self._factor_specs(shape)}

    def fit_encode(
        self, weights: Mapping[str, Tensor], stats: Mapping[str, MatrixStats], session: EncodingSession | None = None
    ) -> RuleEncoding:
        """All is encoded before the first code comes, since the errors decide which matrices are repaired."""
        codes, repairs = self.corrected(weights, stats, session or EncodingSession())
        kept = [path for path, repair in repairs.items() if repair.kept]
        chosen = (
            f"low-rank repair of {', '.join(kept) or 'nothing'}; tried and dropped on {len(repairs) - len(kept)} more"
        )
        return RuleEncoding(iter(codes.items()), chosen)

    def corrected(
        self, weights: Mapping[str, Tensor], stats: Mapping[str, MatrixStats], session: EncodingSession
    ) -> tuple[dict[str, EncodedTensor], dict[str, LQERResult]]:
        """path -> code of every matrix, and path -> what was tried, of those that were."""
        plain = dict(self.codec.fit_encode(weights, stats, session).codes)

        def draft(path: str) -> LQERCandidate:
            w, known = weights[path], stats.get(path)
            return LQERCandidate(w, known, plain[path], self._error_cost(self._error(w, plain[path]), known))

        drafts = dict(zip(weights, session.map(draft, weights), strict=True))
        found = self._best_corrections(drafts, session)
        codes = {path: draft.uncorrected | self._zero_factors(draft) for path, draft in drafts.items()}
        codes |= {path: code for path, (repair, code) in found.items() if repair.kept}
        return codes, {path: repair for path, (repair, _) in found.items()}

    def encode(
        self, w: Tensor, stats: MatrixStats | None = None, session: EncodingSession | None = None
    ) -> EncodedTensor:
        """The matrix is all there is, and so the first to be repaired."""
        return self.corrected({"": w}, {"": stats} if stats else {}, session or EncodingSession())[0][""]

    def int_grid_and_steps(self, code: EncodedTensor) -> tuple[IntGrid, Tensor] | None:
        return self.codec.int_grid_and_steps(code)

    def decode(self, code: EncodedTensor, shape: Shape) -> Tensor:
        self.check_layout(code, shape)
        w = _matrix(self.codec.decode({name: code[name] for name in self.codec.array_specs(shape)}, shape))
        left, right = self.factors.dequantize({name: code[name] for name in self._factor_specs(shape)})
        for column, row in zip(left.T, right, strict=True):  # in this order on every machine, as no matrix product is
            w = w + column[:, None] * row
        if not w.isfinite().all():
            raise CorruptFileError("a repaired weight is beyond float32")
        return w.reshape(shape)

    def context_model(self, name: str, shape: Shape) -> ContextModel:
        thin = self._factor_specs(shape)
        return AfterFirstNonzero(thin[name][1][1]) if name in thin else self.codec.context_model(name, shape)

    def _factor_specs(self, shape: Shape) -> ArraySpecs:
        """The arrays of the factors."""
        rows, columns = matrix_shape(shape)
        return self.factors.arrays(rows, columns, min(self.rank, rows, columns))

    def _zero_factors(self, draft: LQERCandidate) -> EncodedTensor:
        """The factors of a matrix without repair."""
        return {name: np.zeros(size, kind) for name, (kind, size) in self._factor_specs(tuple(draft.w.shape)).items()}

    def _error(self, w: Tensor, plain: EncodedTensor) -> Tensor:
        return _matrix(w) - _matrix(self.codec.decode(plain, tuple(w.shape)))

    def _error_cost(self, error: Tensor, stats: MatrixStats | None) -> float:
        if self.metric == "frobenius":
            return float(error.double().square().sum())
        return float((stats or identity_stats(*error.shape)).cost(error).double().sum())

    def _best_corrections(
        self, drafts: Mapping[str, LQERCandidate], session: EncodingSession
    ) -> dict[str, tuple[LQERResult, EncodedTensor]]:
        """Of every matrix that was tried, what came of it and its code."""
        worth = {path: draft.cost for path, draft in drafts.items()}
        tried = list(drafts) if self.metric == "hessian" else nlargest(self.top_k, drafts, key=worth.__getitem__)

        def work(path: str) -> tuple[LQERResult, EncodedTensor]:
            with error_location(path):
                return self._correct(drafts[path], session)

        found = dict(zip(tried, session.map(work, tried), strict=True))
        for path in nlargest(self.top_k, found, key=lambda path: found[path][0].gain):
            repair, code = found[path]
            found[path] = repair._replace(kept=repair.gain > 0), code
        return found

    def _correct(self, draft: LQERCandidate, session: EncodingSession) -> tuple[LQERResult, EncodedTensor]:
        factors = self._factorize_error(self._error(draft.w, draft.uncorrected).double(), draft.stats, session)
        code = draft.uncorrected | factors
        left = _matrix(draft.w) - _matrix(self.decode(code, tuple(draft.w.shape)))
        return LQERResult(draft.cost, self._error_cost(left, draft.stats)), code

    def _factorize_error(self, error: Tensor, stats: MatrixStats | None, session: EncodingSession) -> EncodedTensor:
        """A (R, r) and B (r, C), whose product is closest to the error (R, C), float64, in the measure."""
        rank = min(self.rank, *error.shape)
        if self.metric == "frobenius":
            u, s, vt = torch.linalg.svd(error, full_matrices=False)
            return self.factors.quantize(*_negative_peaks(u[:, :rank] * s[:rank], vt[:rank]))
        stats = stats or session.identity_stats(*error.shape)
        factor = stats.factorize(self.solve)  # H = U⁻¹ U⁻ᵀ, so U⁻¹ is a root of it
        upper, error = factor.upper.double(), error.to(factor.upper.device)
        seen = torch.linalg.solve_triangular(upper, error.masked_fill(factor.dead, 0.0), upper=True, left=False)
        weighted = stats.output_fisher.double().sqrt()[:, None] * seen
        vt = torch.linalg.svd(weighted, full_matrices=False)[2][:rank]
        right = vt @ upper
        norms = right.norm(dim=1, keepdim=True)
        left = (seen @ vt.T) * norms.T  # by rows the best for this B, whatever their outputs matter
        own = factor.cpu()

        def solve(b: Tensor, step: Tensor, nearest: RoundToGrid) -> Tensor:
            return self.solve.quantize(b[None], [own], step[None], nearest)[0]

        return self.factors.quantize(*_negative_peaks(left.cpu(), (right / norms).cpu()), solve)


class AfterFirstNonzero:
    """A walk down the rows of a factor: whether anything but zeros has come yet. A matrix without repair is nearly free."""

    context_count = 2

    def __init__(self, columns: int) -> None:
        self._row = np.zeros(columns, np.uint8)

    def next_row(self) -> NDArray[np.uint8]:
        return self._row

    def update(self, row: Array) -> None:
        if row.any():
            self._row = np.ones_like(self._row)


def _negative_peaks(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product, but each column's largest entry in A is negative: there `AsymmetricFactors` reach further."""
    top = left.gather(0, left.abs().argmax(0, keepdim=True))
    sign = torch.where(top > 0, -1.0, 1.0)
    return left * sign, right * sign.T


def _matrix(w: Tensor) -> Tensor:
    return w.detach().float().cpu().reshape(matrix_shape(tuple(w.shape)))
