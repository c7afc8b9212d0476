"""Which documents are scored before a phase of `PhasedLoRA` with batches in flight, and the text that it trains on.

In Parameter Golf #1610 to #2135, eight GPUs score batches of 64 documents, the longest first. When as many documents as
the boundary of a phase are scored, each GPU finishes its batch. The phase then trains on the shortest of the documents
scored so far, as many as the boundary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor


def batch_ends(documents: int, rows: int) -> list[int]:
    """Number of documents scored after each batch of `rows`; a first, smaller batch has the remainder."""
    return [*range(documents % rows or rows, documents + 1, rows)]


def scored_before_phases(documents: int, boundaries: Sequence[int], rows: int, in_flight: int) -> Iterator[int]:
    """Number of documents scored before each phase: whole batches of `rows`, and all `in_flight` after the boundary.

    The remainder is among the batches in flight at the first boundary, since its documents are the longest. Of 50,000
    documents in batches of 64 with 7 in flight, 1,296 are scored at a boundary of 833, as in the log of #1855, and
    1,104 at a boundary of 666, as in that of #1626. Phases that would begin after the last document are left out.
    """
    ends, done = batch_ends(documents, rows), 0
    late = documents % rows if in_flight else 0  # documents in flight at the first boundary in any case
    for boundary in boundaries:
        reached = next((i for i in range(done, len(ends)) if ends[i] - late >= boundary), len(ends))
        done, late = reached + in_flight + (not late), 0
        if done >= len(ends):
            return
        yield ends[done - 1]


def shortest_documents(revealed: Tensor, bos: int, count: int) -> Tensor:
    """The text of a phase: the last `count` documents, in reverse order, each with BOS before and after it.

    revealed: documents in the order of scoring, longest first, each with BOS before it, and one BOS after the last.
    So the text begins with the shortest document, and BOS stands twice between two documents, as published.
    """
    starts = [*(revealed[:-1] == bos).nonzero()[:, 0].tolist(), len(revealed) - 1]
    spans = [*pairwise(starts)][-count:]
    return torch.cat([revealed[start : stop + 1] for start, stop in reversed(spans)])
