"""The input of the checks, a quantized model with its statistics, and their output, findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from bitgolf.model.lm import LM
from bitgolf.pack.streams import EncodedTensor
from bitgolf.quantize.codecs.codec import Codec, matrix_shape
from bitgolf.quantize.encoding import Roles, Rules, TensorReport
from bitgolf.quantize.stats import StatsByPath
from bitgolf.report.findings import Severity


class QuantizationFinding(NamedTuple):
    """A result of a check. An error means that the scores of the run are not reliable.

    rule: identifier of the kind of finding.  where: a tensor, a path in the recipe, or a file.  hint: a remedy.
    """

    rule: str
    severity: Severity
    message: str
    where: str
    hint: str


class QuantizedModel(NamedTuple):
    """A quantized model with everything that the checks need. Mappings are by path of the tensor.

    model: holds the weights before quantization.  weights: the same, float32 on the CPU.
    decoded: the weights after quantization, float32.
    stats: the stored calibration; None if no codec uses one.
    remeasured: statistics of two halves of a small calibration of `model`; None if there is not enough text.
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
        """(R,) predicted increase of the loss in nats per token, by row; None without statistics of matching shape."""
        stats = (self.stats or (self.remeasured[0] if self.remeasured else {})).get(path)
        error = (self.decoded[path] - self.weights[path]).reshape(matrix_shape(tuple(self.weights[path].shape)))
        if stats is None or error.shape != (len(stats.output_fisher), len(stats.hessian)):
            return None
        return stats.cost(error).double()

    def costs(self) -> dict[str, float]:
        """Path -> predicted increase of the loss in nats per token, for tensors with statistics."""
        rows = {path: self.row_costs(path) for path in self.weights}
        return {path: float(costs.sum()) for path, costs in rows.items() if costs is not None}


Check = Callable[[QuantizedModel], Iterator[QuantizationFinding]]


def first_and_count(paths: Iterable[str]) -> str:
    """A location such as `first and 3 more`."""
    first, *more = paths
    return f"{first}{f' and {len(more)} more' * bool(more)}"
