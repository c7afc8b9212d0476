"""What is audited: an evaluation that sees text through a `DataView` and answers with a `ClaimedScore`."""

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
    """The entry's tokenizer. `decode` is given back all that `encode` made of a document, without BOS."""

    @property
    def vocab(self) -> int: ...

    @property
    def bos(self) -> int: ...

    def encode(self, data: bytes, /) -> npt.NDArray[np.integer[Any]]: ...

    def decode(self, ids: npt.NDArray[np.integer[Any]], /) -> bytes: ...


class TextRead(NamedTuple):
    """Tokens start … stop-1 of the validation text were looked at, in this phase."""

    phase: str
    start: int
    stop: int


@dataclass
class DataView:
    """The only way to text, in one phase. What is read of the validation text is written down in `log`.

    targets: of the validation text, whose target t is token t + 1; bytes: of its raw documents, a constant of the task;
    asked: targets whose whole distribution is asked for (`ClaimedScore.distributions`), by those who can tell it.
    """

    phase: str
    _validation: Ints
    _training: Ints
    bytes: int
    distribution_targets: frozenset[int] = frozenset()
    log: list[TextRead] = field(default_factory=list)

    @property
    def targets(self) -> int:
        return len(self._validation) - 1

    def tokens(self, start: int = 0, stop: int | None = None) -> Ints:
        """Validation tokens start … stop-1, a copy: documents opened by BOS, a last BOS after the last of them."""
        start, stop, _ = slice(start, stop).indices(len(self._validation))
        self.log.append(TextRead(self.phase, start, stop))
        return self._validation[start:stop].copy()

    def training(self, limit: int | None = None) -> Ints:
        """The first so many training tokens, laid out as the validation text is."""
        return self._training[:limit].copy()


class ClaimedScore(NamedTuple):
    """What an evaluation says that a text costs.

    positions: (n,) the targets that were charged, in the order of charging; bits: (n,) what each was charged;
    bytes: of the text that was charged, by the entry's own count; side: bits charged for what was known beforehand, as
    the lengths of documents are to those who sort by them; distributions: of the targets asked for, the bits of each
    token, (vocab,), or nothing: then the charges of all tokens are found out one by one.
    """

    positions: Ints
    bits: Floats
    bytes: int
    side_bits: float = 0.0
    distributions: Mapping[int, Floats] = {}

    @property
    def bpb(self) -> float:
        return (float(self.bits.sum()) + self.side_bits) / self.bytes


class Evaluation(Protocol):
    """An evaluation. It is made anew for each run, and its methods are called once, in this order.

    isolated: declares that no document influences how another is scored.
    The same text must give the same charges: an entry that draws random numbers seeds its own generator.
    """

    @property
    def tokenizer(self) -> EvaluationTokenizer: ...

    @property
    def isolated(self) -> bool: ...

    def build(self, sight: DataView) -> None:
        """Load, train or calibrate what is scored."""
        ...

    def warm_up(self, sight: DataView) -> None:
        """Compile, and whatever else comes before scoring."""
        ...

    def evaluate(self, sight: DataView) -> ClaimedScore: ...
