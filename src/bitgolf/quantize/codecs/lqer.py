"""LQER: low-rank correction of the quantization error of a few matrices, with quantized factors.

The error E = W - W^ is approximated at rank r by a singular value decomposition, A (R, r) times B (r, C); the decoder
returns W^ + A^ B^. Sources: LQER, arXiv 2402.02446; openai/parameter-golf, pull request 1797 (choice of matrices by the
norm of E, storage of the factors). The metric `hessian`, in both decomposition and choice, is our addition.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from heapq import nlargest
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgolf.config.ranges import Count, NonNegative, Width
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import CorruptFileError, RecipeError, error_location
from bitgolf.grids.integer import IntGrid
from bitgolf.pack.byte_planes import Array
from bitgolf.pack.contexts import ContextModel
from bitgolf.pack.streams import EncodedTensor
from bitgolf.quantize.codecs.codec import ArraySpecs, Codec, RuleEncoding, Shape, matrix_shape
from bitgolf.quantize.codecs.gptq import GPTQ, RoundToGrid
from bitgolf.quantize.codecs.joint_encoding import JointCodec, RuleWeights, encode_rules
from bitgolf.quantize.codecs.lqer_factors import FACTOR_ARRAYS, AsymmetricFactors, LowRankFactors
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.stats import MatrixStats, identity_stats


class LQERResult(NamedTuple):
    """Error of one matrix before and after correction: squared error, or nats per token with the metric `hessian`.

    kept: whether the correction is stored.
    """

    before: float
    after: float
    kept: bool = False

    @property
    def gain(self) -> float:
        return self.before - self.after


class LQERCandidate(NamedTuple):
    """A matrix, its codec, its code without correction, and the cost of the error of that code in the metric."""

    codec: LQER
    w: Tensor
    stats: MatrixStats | None
    uncorrected: EncodedTensor
    cost: float


@register
class LQER(JointCodec):
    """A codec, plus a low-rank correction of rank `rank` for at most `top_k` matrices.

    metric: `frobenius` corrects the matrices with the largest ‖E‖, by the SVD of E (as published). `hessian` tries all
    matrices and keeps those with the largest gain in nats per token. Each is tried with the factors of both the SVD of
    E and that of E weighted by its statistics, and the better ones are kept, since rounding them can undo the weights.
    factors: storage format of A and B.  damping: of the Hessian, as in `GPTQ`.
    align_signs: negate factors such that the largest magnitude of each column of A is negative, since the range of
    `AsymmetricFactors` (-2..1) extends further on that side. Off as published: the signs are those of the SVD.
    scope: these are chosen from all matrices of the `rule`, or of all rules of the `recipe` whose codec is an `LQER`
    with the same `top_k`, `metric` and this scope, as published.
    A correction is kept only if it lowers the error with the factors as decoded.
    """

    def __init__(
        self,
        *,
        codec: Spec[Codec],
        rank: Width = 4,
        top_k: Count = 3,
        metric: Literal["frobenius", "hessian"] = "frobenius",
        factors: Spec[LowRankFactors] = part(AsymmetricFactors),
        damping: NonNegative = 0.01,
        align_signs: bool = True,
        scope: Literal["rule", "recipe"] = "rule",
    ) -> None:
        for name, value in (("rank", rank), ("top_k", top_k)):
            if value < 1:
                raise RecipeError(f"{name} must be at least 1, got {value}", where=f"LQER.{name}")
        self.codec, self.factors, self.solve = codec(), factors(), GPTQ(damping=damping, order="given")
        if taken := self.codec.array_specs((1, 1)).keys() & set(FACTOR_ARRAYS):
            message = f"{type(self.codec).__name__} has an array of the same name as a factor ({min(taken)})"
            raise RecipeError(message, where="LQER.codec", hint="use a codec without low-rank correction")
        self.rank, self.top_k, self.metric, self.align_signs, self.scope = rank, top_k, metric, align_signs, scope

    @property
    def inner(self) -> Codec:
        return self.codec

    @property
    def joint_choice(self) -> Hashable | None:
        return (LQER, self.top_k, self.metric) if self.scope == "recipe" else None

    def extra_bits(self, shape: Shape) -> float:
        return self.factors.bits(*matrix_shape(shape), min(self.rank, *matrix_shape(shape)))

    @property
    def context_coded(self) -> tuple[str, ...]:
        return (*self.codec.context_coded, *self.factors.arrays(1, 1, 1))

    @property
    def needs_calibration(self) -> bool:
        return self.codec.needs_calibration or self.metric == "hessian"

    def array_specs(self, shape: Shape) -> ArraySpecs:
        return {**self.codec.array_specs(shape), **self._factor_specs(shape)}

    def fit_encode_rules(
        self, rules: Sequence[RuleWeights], stats: Mapping[str, MatrixStats], session: EncodingSession
    ) -> RuleEncoding:
        """Encodes all tensors before it returns, since their errors determine which matrices are corrected."""
        codes, results, remarks = self.corrected(rules, stats, session)
        kept = [path for path, result in results.items() if result.kept]
        dropped = len(results) - len(kept)
        own = f"low-rank correction of {', '.join(kept) or 'no matrix'}; tried and not stored for {dropped}"
        return RuleEncoding(iter(codes.items()), "; ".join([*remarks, own]))

    def corrected(
        self, rules: Sequence[RuleWeights], stats: Mapping[str, MatrixStats], session: EncodingSession
    ) -> tuple[dict[str, EncodedTensor], dict[str, LQERResult], list[str]]:
        """Path -> code of every matrix, path -> result of every matrix that was tried, remarks of the inner codecs."""
        members = [(codec, weights) for codec, weights in rules if isinstance(codec, LQER)]
        inner = list(encode_rules([RuleWeights(codec.codec, ws) for codec, ws in members], stats, session))
        plain = {path: code for encoding in inner for path, code in encoding.codes}

        def candidate(entry: tuple[LQER, str, Tensor]) -> tuple[str, LQERCandidate]:
            codec, path, w = entry
            own, error = stats.get(path), codec.error(w, plain[path])
            return path, LQERCandidate(codec, w, own, plain[path], codec.error_cost(error, own))

        entries = [(codec, path, w) for codec, weights in members for path, w in weights.items()]
        candidates = dict(session.map(candidate, entries))
        found = self._best_corrections(candidates, session)
        codes = {path: one.uncorrected | one.codec.zero_factors(one.w) for path, one in candidates.items()}
        codes |= {path: code for path, (result, code) in found.items() if result.kept}
        results = {path: result for path, (result, _) in found.items()}
        return codes, results, [encoding.summary for encoding in inner if encoding.summary]

    def encode(
        self, w: Tensor, stats: MatrixStats | None = None, session: EncodingSession | None = None
    ) -> EncodedTensor:
        """The code of a single matrix, which is corrected if that lowers its error."""
        return dict(self.fit_encode({"": w}, {"": stats} if stats else {}, session).codes)[""]

    def int_grid_and_steps(self, code: EncodedTensor) -> tuple[IntGrid, Tensor] | None:
        return self.codec.int_grid_and_steps(code)

    def decode(self, code: EncodedTensor, shape: Shape) -> Tensor:
        self.check_layout(code, shape)
        w = _matrix(self.codec.decode(self.inner_code(code, shape), shape))
        left, right = self.correction(code, shape)
        for column, row in zip(left.T, right, strict=True):  # a fixed order of sums, unlike a matrix product
            w = w + column[:, None] * row
        if not w.isfinite().all():
            raise CorruptFileError("a corrected weight is beyond float32: a scale of its factors is too large")
        return w.reshape(shape)

    def inner_code(self, code: EncodedTensor, shape: Shape) -> EncodedTensor:
        """The arrays of `codec`."""
        return {name: code[name] for name in self.codec.array_specs(shape)}

    def correction(self, code: EncodedTensor, shape: Shape) -> tuple[Tensor, Tensor]:
        """The factors A (R, r) and B (r, C), zero for a matrix that is not corrected."""
        return self.factors.dequantize({name: code[name] for name in self._factor_specs(shape)})

    def context_model(self, name: str, shape: Shape) -> ContextModel:
        thin = self._factor_specs(shape)
        return AfterFirstNonzero(thin[name][1][1]) if name in thin else self.codec.context_model(name, shape)

    def _factor_specs(self, shape: Shape) -> ArraySpecs:
        """Array name -> (dtype, shape) of the factors of a tensor of this shape."""
        rows, columns = matrix_shape(shape)
        return self.factors.arrays(rows, columns, min(self.rank, rows, columns))

    def zero_factors(self, w: Tensor) -> EncodedTensor:
        """All-zero factors, which stand for no correction."""
        specs = self._factor_specs(tuple(w.shape))
        return {name: np.zeros(size, dtype) for name, (dtype, size) in specs.items()}

    def error(self, w: Tensor, plain: EncodedTensor) -> Tensor:
        """The error (R, C) of a code without correction."""
        return _matrix(w) - _matrix(self.codec.decode(plain, tuple(w.shape)))

    def error_cost(self, error: Tensor, stats: MatrixStats | None) -> float:
        """The cost of an error (R, C) in the metric."""
        if self.metric == "frobenius":
            return float(error.double().square().sum())
        return float((stats or identity_stats(*error.shape)).cost(error).double().sum())

    def _best_corrections(
        self, candidates: Mapping[str, LQERCandidate], session: EncodingSession
    ) -> dict[str, tuple[LQERResult, EncodedTensor]]:
        """Path -> result and corrected code of every matrix that was tried; at most `top_k` results are `kept`."""
        costs = {path: candidate.cost for path, candidate in candidates.items()}
        tried = list(candidates)
        if self.metric == "frobenius":
            tried = nlargest(self.top_k, candidates, key=costs.__getitem__)

        def work(path: str) -> tuple[LQERResult, EncodedTensor]:
            with error_location(path):
                return candidates[path].codec.correct(candidates[path], session)

        found = dict(zip(tried, session.map(work, tried), strict=True))
        for path in nlargest(self.top_k, found, key=lambda path: found[path][0].gain):
            result, code = found[path]
            found[path] = result._replace(kept=result.gain > 0), code
        return found

    def correct(self, candidate: LQERCandidate, session: EncodingSession) -> tuple[LQERResult, EncodedTensor]:
        """The best correction of a matrix that was found: its result and the corrected code."""
        w, stats = candidate.w, candidate.stats
        error = self.error(w, candidate.uncorrected).double()
        tried = [self._factorize_error(error)]
        if self.metric == "hessian":
            tried.append(self._factorize_weighted(error, stats or session.identity_stats(*error.shape)))
        codes = [candidate.uncorrected | factors for factors in tried]
        costs = [self.error_cost(_matrix(w) - _matrix(self.decode(code, tuple(w.shape))), stats) for code in codes]
        best = min(range(len(codes)), key=costs.__getitem__)
        return LQERResult(candidate.cost, costs[best]), codes[best]

    def _factorize_error(self, error: Tensor) -> EncodedTensor:
        """The code of A (R, r) and B (r, C), whose product is closest to the error (R, C), float64."""
        rank = min(self.rank, *error.shape)
        u, s, vt = torch.linalg.svd(error if self.align_signs else error.float(), full_matrices=False)
        return self.factors.quantize(*self._signed(u[:, :rank] * s[:rank], vt[:rank]))

    def _factorize_weighted(self, error: Tensor, stats: MatrixStats) -> EncodedTensor:
        """The code of A (R, r) and B (r, C), whose product leaves the least cost of the error (R, C), float64."""
        rank = min(self.rank, *error.shape)
        factor = stats.factorize(self.solve)  # H = U⁻¹ U⁻ᵀ, so U⁻¹ is a square root of H
        upper, error = factor.upper.double(), error.to(factor.upper.device)
        whitened = torch.linalg.solve_triangular(upper, error.masked_fill(factor.dead, 0.0), upper=True, left=False)
        weighted = stats.output_fisher.double().sqrt()[:, None] * whitened
        vt = torch.linalg.svd(weighted, full_matrices=False)[2][:rank]
        right = vt @ upper
        norms = right.norm(dim=1, keepdim=True)
        left = (whitened @ vt.T) * norms.T  # for fixed B each row of A is optimal, whatever the weight of its output
        own = factor.cpu()

        def solve(b: Tensor, step: Tensor, nearest: RoundToGrid) -> Tensor:
            return self.solve.quantize(b[None], [own], step[None], nearest)[0]

        return self.factors.quantize(*self._signed(left.cpu(), (right / norms).cpu()), solve)

    def _signed(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """The factors A (R, r) and B (r, C) with the signs of `align_signs`."""
        if not self.align_signs:
            return left, right
        top = left.gather(0, left.abs().argmax(0, keepdim=True))
        sign = torch.where(top > 0, -1.0, 1.0)
        return left * sign, right * sign.T


class AfterFirstNonzero:
    """Context model of a factor: 0 until a row has a nonzero entry, then 1. Zero factors cost almost nothing."""

    context_count = 2

    def __init__(self, columns: int) -> None:
        self._row = np.zeros(columns, np.uint8)

    def next_row(self) -> NDArray[np.uint8]:
        return self._row

    def update(self, row: Array) -> None:
        if row.any():
            self._row = np.ones_like(self._row)


def _matrix(w: Tensor) -> Tensor:
    return w.detach().float().cpu().reshape(matrix_shape(tuple(w.shape)))
