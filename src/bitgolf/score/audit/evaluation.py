"""The interface of an audited evaluation: it reads text through a `DataView` and returns a `ClaimedScore`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class EvaluationTokenizer(Protocol):
    """The evaluation's tokenizer. `decode` should invert `encode` for every document; both leave out BOS."""

    @property
    def vocab(self) -> int: ...

    @property
    def bos(self) -> int: ...

    def encode(self, data: bytes, /) -> npt.NDArray[np.integer[Any]]: ...

    def decode(self, ids: npt.NDArray[np.integer[Any]], /) -> bytes: ...


class TextRead(NamedTuple):
    """A read of the tokens start … stop-1 of the validation text in a phase."""

    phase: str
    start: int
    stop: int


@dataclass
class DataView:
    """Access to the text in one phase: "build", "warm-up" or "scoring". Reads of the validation text go to `log`.

    bytes: of the raw validation documents. distribution_targets: targets for which the evaluation should return the
    whole distribution in `ClaimedScore.distributions`, if it can.
    """

    phase: str
    _validation: Ints
    _training: Ints
    bytes: int
    distribution_targets: frozenset[int] = frozenset()
    log: list[TextRead] = field(default_factory=list)

    @property
    def targets(self) -> int:
        """Number of validation targets. Target t is token t + 1."""
        return len(self._validation) - 1

    def tokens(self, start: int = 0, stop: int | None = None) -> Ints:
        """A copy of the validation tokens start … stop-1: BOS before each document and after the last one."""
        start, stop, _ = slice(start, stop).indices(len(self._validation))
        self.log.append(TextRead(self.phase, start, stop))
        return self._validation[start:stop].copy()

    def training(self, limit: int | None = None) -> Ints:
        """A copy of the first `limit` training tokens, all by default, in the format of the validation tokens."""
        return self._training[:limit].copy()


class ClaimedScore(NamedTuple):
    """The score of a text as an evaluation reports it.

    positions: (n,) targets in the order of scoring. bits: (n,) of each of these targets.
    bytes: of the scored text, as the evaluation counts them.
    side_bits: bits added for side information, e.g. for the document lengths if documents are sorted by length.
    distributions: for targets in `DataView.distribution_targets`, the bits of every token (vocab,). If it is empty, the
    audit determines the bits of all tokens one by one.
    """

    positions: Ints
    bits: Floats
    bytes: int
    side_bits: float = 0.0
    distributions: Mapping[int, Floats] = {}

    @property
    def bpb(self) -> float:
        """Bits per byte, `side_bits` included."""
        return (float(self.bits.sum()) + self.side_bits) / self.bytes


class Evaluation(Protocol):
    """An evaluation. It is created anew for each run; its methods are called once each, in this order.

    isolated: declares that no document changes the score of another.
    The same text must give the same bits, so an evaluation that uses random numbers must seed its own generator.
    """

    @property
    def tokenizer(self) -> EvaluationTokenizer: ...

    @property
    def isolated(self) -> bool: ...

    def build(self, view: DataView) -> None:
        """Load, train or calibrate the model."""
        ...

    def warm_up(self, view: DataView) -> None:
        """Compile, and do all else that precedes scoring."""
        ...

    def evaluate(self, view: DataView) -> ClaimedScore:
        """Score the validation text."""
        ...
