"""Per-document LoRA on short documents: strides, scores without learning, refused settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bitgolf.errors import RecipeError
from helpers.document_lora import charges, documents, lora, text_of

SHORT: dict[str, Any] = {"window": 4000, "stride": 48, "full_windows": True, "keep_a": True, "rows": 2}


@pytest.mark.parametrize(("longest", "stride"), [(2, 8), (256, 8), (257, 24), (2000, 24), (2001, 48), (9000, 48)])
def test_strides_of_short_documents(longest: int, stride: int) -> None:
    """The limits of #2014 include the BOS before and the one after a document, one token more than it has targets."""
    method = lora(**SHORT, short_documents=((256, 8), (2000, 24)))
    assert method.stride_of([(0, 1), (1, longest)]) == stride


def test_the_longest_document_of_a_group_sets_the_stride_of_all() -> None:
    method = lora(window=40, stride=12, full_windows=True, rows=2, short_documents=((10, 2), (30, 6)))
    ends = np.cumsum([9, 3, 20, 2, 35, 9]).tolist()
    (batch,) = method.batches(list(zip([0, *ends], ends, strict=False)))
    sizes = [[w.stop - w.first_target for w in text] for text in batch.texts]
    assert sizes == [[2, 2, 2, 2, 1], [2, 1], [6, 6, 6, 2], [2], [12, 12, 11], [9]]
    assert method.cross_document and not lora(full_windows=True).cross_document


@pytest.mark.parametrize("keep_a", [True, False])
def test_short_documents_without_learning_are_scored_still(keep_a: bool) -> None:
    """All of a short document is in the window, so its score without adaptation does not depend on the stride."""
    text = text_of(documents())
    method = lora(lr=0.0, full_windows=True, keep_a=keep_a, short_documents=((6, 1), (16, 3)))
    assert charges(method, text) == pytest.approx(charges(method.without_adaptation()(), text), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"short_documents": ((8, 2), (8, 3))}, "limits must ascend to at most the window of 16"),
        ({"short_documents": ((17, 2),)}, "limits must ascend to at most the window of 16"),
        ({"short_documents": ((8, 6),)}, "strides to at most 5"),
        ({"short_documents": ((8, 2),), "full_windows": False}, "the stride depends on where a document ends"),
    ],
)
def test_short_documents_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        lora(**({"full_windows": True} | settings))
