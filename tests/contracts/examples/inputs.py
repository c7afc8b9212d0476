"""Parts at the input, as the contract suite needs them: with the masks that keep documents apart."""

from __future__ import annotations

from typing import Any

from bitgolf.model.ngrams import HashedBigrams
from bitgolf.spec import Spec, part

EXAMPLES: dict[type, Spec[Any]] = {
    HashedBigrams: part(HashedBigrams, rows=97, width=8, trigrams=True, mask_starts=True),
}
