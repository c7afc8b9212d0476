"""A quantized model with all that is known of it, and what may be wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from bitgolf.model.lm import LM
from bitgolf.pack.streams import EncodedTensor
from bitgolf.quantize.codecs.codec import Codec, matrix_shape
from bitgolf.quantize.encoding import Roles, Rules, TensorReport
from bitgolf.quantize.stats import StatsByPath

Severity = Literal["error", "warning", "note"]


class QuantizationFinding(NamedTuple):
    """`message`: the cause. `where`: a tensor, a path in the recipe or a file. An error means: do not trust this run."""

    rule: str
    severity: Severity
    message: str
    where: str
    hint: str


class QuantizedModel(NamedTuple):
    """A quantized model. `weights`: as they were, float32 on the CPU, and in `model`; `decoded`: as they are read back.

    stored: what the codecs knew, None where they asked for nothing.
    seen: two halves of a small calibration through the model as it is scored, None where there was no text for both.
    """

    model: LM
    rules: Rules
    roles: Roles
    codecs: Mapping[str, Codec]
    weights: Mapping[str, Tensor]
    encoded: Mapping[str, EncodedTensor]
    decoded: Mapping[str, Tensor]
    reports: Sequence[TensorReport]
    stats: StatsByPath | None
    remeasured: tuple[StatsByPath, StatsByPath] | None

    def row_costs(self, path: str) -> Tensor | None:
        """(R,) predicted nats per token, row by row; None where nothing fitting is known of this tensor."""
        stats = (self.stats or (self.remeasured[0] if self.remeasured else {})).get(path)
        error = (self.decoded[path] - self.weights[path]).reshape(matrix_shape(tuple(self.weights[path].shape)))
        if stats is None or error.shape != (len(stats.output_fisher), len(stats.hessian)):
            return None
        return stats.cost(error).double()

    def costs(self) -> dict[str, float]:
        """path -> predicted nats per token, for the matrices of which anything is known."""
        rows = {path: self.row_costs(path) for path in self.weights}
        return {path: float(costs.sum()) for path, costs in rows.items() if costs is not None}


Check = Callable[[QuantizedModel], Iterator[QuantizationFinding]]


def first_and_count(paths: Iterable[str]) -> str:
    """`first and 3 more`."""
    first, *more = paths
    return f"{first}{f' and {len(more)} more' * bool(more)}"
