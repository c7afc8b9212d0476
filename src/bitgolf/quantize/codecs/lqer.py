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
from bitgolf.errors import DamagedError, RecipeError, at
from bitgolf.grids.integer import IntGrid
from bitgolf.pack.byte_planes import Array
from bitgolf.pack.contexts import Walk
from bitgolf.pack.streams import Code
from bitgolf.quantize.codecs.codec import Arrays, Codec, RuleEncoding, Shape, matrix_shape
from bitgolf.quantize.codecs.gptq import Gptq, Nearest
from bitgolf.quantize.codecs.lqer_factors import NAMES, AsymmetricFactors, Factors
from bitgolf.quantize.codecs.session import Session
from bitgolf.quantize.stats import Stats, flat


class Repair(NamedTuple):
    """What it did to one matrix, in the measure that chose it: squared error, or nats per token. Not `kept` is dropped."""

    before: float
    after: float
    kept: bool = False

    @property
    def gain(self) -> float:
        return self.before - self.after


class Draft(NamedTuple):
    """A matrix, its code without repair and what that one's error is worth."""

    w: Tensor
    stats: Stats | None
    plain: Code
    worth: float


@register
class LowRankRepair(Codec):
    """Another codec and a repair of rank `rank` for the `keep` matrices of the rule that want it most.

    choose: `frobenius` takes those with the largest ‖E‖ and the decomposition of E itself (published); `hessian` tries
    all, takes those where the repair saves the most nats per token, and cuts E down where calibration says it matters.
    damping: of the Hessian, as in `Gptq`. A repair that does not lower the error, as it will be read back, is dropped.
    """

    def __init__(
        self,
        *,
        codec: Spec[Codec],
        rank: int = 4,
        keep: int = 3,
        choose: Literal["frobenius", "hessian"] = "frobenius",
        factors: Spec[Factors] = part(AsymmetricFactors),
        damping: float = 0.01,
    ) -> None:
        for name, value in (("rank", rank), ("keep", keep)):
            if value < 1:
                raise RecipeError(f"{name} is at least 1, not {value}", place=f"LowRankRepair.{name}")
        self.codec, self.factors, self.solve = codec(), factors(), Gptq(damping=damping, order="given")
        if taken := self.codec.arrays((1, 1)).keys() & set(NAMES):
            raise RecipeError(f"its codec has arrays of the same names ({min(taken)})", place="LowRankRepair.codec")
        self.rank, self.keep, self.choose = rank, keep, choose

    @property
    def contextual(self) -> tuple[str, ...]:
        return (*self.codec.contextual, *self.factors.arrays(1, 1, 1))

    @property
    def calibrated(self) -> bool:
        return self.codec.calibrated or self.choose == "hessian"

    def arrays(self, shape: Shape) -> Arrays:
        return {**self.codec.arrays(shape), **self._thin(shape)}

    def fit_encode(
        self, weights: Mapping[str, Tensor], stats: Mapping[str, Stats], session: Session | None = None
    ) -> RuleEncoding:
        """All is encoded before the first code comes, since the errors decide which matrices are repaired."""
        codes, repairs = self.corrected(weights, stats, session or Session())
        kept = [path for path, repair in repairs.items() if repair.kept]
        chosen = (
            f"low-rank repair of {', '.join(kept) or 'nothing'}; tried and dropped on {len(repairs) - len(kept)} more"
        )
        return RuleEncoding(iter(codes.items()), chosen)

    def corrected(
        self, weights: Mapping[str, Tensor], stats: Mapping[str, Stats], session: Session
    ) -> tuple[dict[str, Code], dict[str, Repair]]:
        """path -> code of every matrix, and path -> what was tried, of those that were."""
        plain = dict(self.codec.fit_encode(weights, stats, session).codes)

        def draft(path: str) -> Draft:
            w, known = weights[path], stats.get(path)
            return Draft(w, known, plain[path], self._worth(self._error(w, plain[path]), known))

        drafts = dict(zip(weights, session.map(draft, weights), strict=True))
        found = self._repaired(drafts, session)
        codes = {path: draft.plain | self._none(draft) for path, draft in drafts.items()}
        codes |= {path: code for path, (repair, code) in found.items() if repair.kept}
        return codes, {path: repair for path, (repair, _) in found.items()}

    def encode(self, w: Tensor, stats: Stats | None = None, session: Session | None = None) -> Code:
        """The matrix is all there is, and so the first to be repaired."""
        return self.corrected({"": w}, {"": stats} if stats else {}, session or Session())[0][""]

    def int_grid_and_steps(self, code: Code) -> tuple[IntGrid, Tensor] | None:
        return self.codec.int_grid_and_steps(code)

    def decode(self, code: Code, shape: Shape) -> Tensor:
        self.check(code, shape)
        w = _matrix(self.codec.decode({name: code[name] for name in self.codec.arrays(shape)}, shape))
        left, right = self.factors.expand({name: code[name] for name in self._thin(shape)})
        for column, row in zip(left.T, right, strict=True):  # in this order on every machine, as no matrix product is
            w = w + column[:, None] * row
        if not w.isfinite().all():
            raise DamagedError("a repaired weight is beyond float32")
        return w.reshape(shape)

    def walk(self, name: str, shape: Shape) -> Walk:
        thin = self._thin(shape)
        return SinceZero(thin[name][1][1]) if name in thin else self.codec.walk(name, shape)

    def _thin(self, shape: Shape) -> Arrays:
        """The arrays of the factors."""
        rows, columns = matrix_shape(shape)
        return self.factors.arrays(rows, columns, min(self.rank, rows, columns))

    def _none(self, draft: Draft) -> Code:
        """The factors of a matrix without repair."""
        return {name: np.zeros(size, kind) for name, (kind, size) in self._thin(tuple(draft.w.shape)).items()}

    def _error(self, w: Tensor, plain: Code) -> Tensor:
        return _matrix(w) - _matrix(self.codec.decode(plain, tuple(w.shape)))

    def _worth(self, error: Tensor, stats: Stats | None) -> float:
        if self.choose == "frobenius":
            return float(error.double().square().sum())
        return float((stats or flat(*error.shape)).cost(error).double().sum())

    def _repaired(self, drafts: Mapping[str, Draft], session: Session) -> dict[str, tuple[Repair, Code]]:
        """Of every matrix that was tried, what came of it and its code."""
        worth = {path: draft.worth for path, draft in drafts.items()}
        tried = list(drafts) if self.choose == "hessian" else nlargest(self.keep, drafts, key=worth.__getitem__)

        def work(path: str) -> tuple[Repair, Code]:
            with at(path):
                return self._repair(drafts[path], session)

        found = dict(zip(tried, session.map(work, tried), strict=True))
        for path in nlargest(self.keep, found, key=lambda path: found[path][0].gain):
            repair, code = found[path]
            found[path] = repair._replace(kept=repair.gain > 0), code
        return found

    def _repair(self, draft: Draft, session: Session) -> tuple[Repair, Code]:
        factors = self._cut(self._error(draft.w, draft.plain).double(), draft.stats, session)
        code = draft.plain | factors
        left = _matrix(draft.w) - _matrix(self.decode(code, tuple(draft.w.shape)))
        return Repair(draft.worth, self._worth(left, draft.stats)), code

    def _cut(self, error: Tensor, stats: Stats | None, session: Session) -> Code:
        """A (R, r) and B (r, C), whose product is closest to the error (R, C), float64, in the measure."""
        rank = min(self.rank, *error.shape)
        if self.choose == "frobenius":
            u, s, vt = torch.linalg.svd(error, full_matrices=False)
            return self.factors.round(*_signed(u[:, :rank] * s[:rank], vt[:rank]))
        stats = stats or session.flat(*error.shape)
        factor = stats.factorize(self.solve)  # H = U⁻¹ U⁻ᵀ, so U⁻¹ is a root of it
        upper, error = factor.upper.double(), error.to(factor.upper.device)
        seen = torch.linalg.solve_triangular(upper, error.masked_fill(factor.dead, 0.0), upper=True, left=False)
        weighted = stats.outputs.double().sqrt()[:, None] * seen
        vt = torch.linalg.svd(weighted, full_matrices=False)[2][:rank]
        right = vt @ upper
        norms = right.norm(dim=1, keepdim=True)
        left = (seen @ vt.T) * norms.T  # by rows the best for this B, whatever their outputs matter
        own = factor.cpu()

        def solve(b: Tensor, step: Tensor, nearest: Nearest) -> Tensor:
            return self.solve.codes(b[None], [own], step[None], nearest)[0]

        return self.factors.round(*_signed(left.cpu(), (right / norms).cpu()), solve)


class SinceZero:
    """A walk down the rows of a factor: whether anything but zeros has come yet. A matrix without repair is nearly free."""

    contexts = 2

    def __init__(self, columns: int) -> None:
        self._row = np.zeros(columns, np.uint8)

    def row(self) -> NDArray[np.uint8]:
        return self._row

    def push(self, row: Array) -> None:
        if row.any():
            self._row = np.ones_like(self._row)


def _signed(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product, but each column's largest entry in A is negative: there `AsymmetricFactors` reach further."""
    top = left.gather(0, left.abs().argmax(0, keepdim=True))
    sign = torch.where(top > 0, -1.0, 1.0)
    return left * sign, right * sign.T


def _matrix(w: Tensor) -> Tensor:
    return w.detach().float().cpu().reshape(matrix_shape(tuple(w.shape)))
