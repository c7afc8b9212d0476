"""Examples of input parts, with the masks that isolate documents, as the contract tests require."""

from __future__ import annotations

from typing import Any

from bitgolf.config.spec import Spec, part
from bitgolf.model.ngram_embedding import HashedNGramEmbedding

EXAMPLES: dict[type, Spec[Any]] = {
    HashedNGramEmbedding: part(HashedNGramEmbedding, buckets=97, width=8, trigrams=True, mask_starts=True),
}
