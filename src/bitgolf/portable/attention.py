"""Scaled dot-product attention in a fixed order, independent of masked keys and of the number of queries.

For each query: a score is the dot product of query and key (`vectors.dot_blocks`) times the scale. A weight is
exp(score - largest score), rounded to float32, and 0 at a masked key. The sum of the weights (float64) and the weighted
sums of the values (float32) go over keys in ascending order; the latter are divided by the former at the end. Adding
zero changes no sum, so a text gives the same bits alone or padded, and read at once or in pieces.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitgolf.portable.elementary import exp_value
from bitgolf.portable.vectors import LANES, dot_blocks

Floats = NDArray[np.float32]


def attention_kernel(
    q: Floats,
    k: Floats,
    v: Floats,
    mask: NDArray[np.uint8],
    strides: NDArray[np.int64],
    scale: np.float32,
    out: Floats,
    first: int,
    last: int,
) -> None:
    """Write the attention outputs of groups of heads first … last-1, counted as text * G + key head, to `out`.

    q, k, v: flat storage.  strides: (4, 3): those of q, k and v for text, head and position, then G, d and 0.
    mask: (B or 1, H or 1, T or 1, S), not zero where a query attends to a key.  out: (B, T, H, d of v).
    Query head h uses key head h // (H / G). A query that attends to no key gives zeros.
    """
    _, queries, heads, width = out.shape
    keys, groups = mask.shape[3], strides[3, 0]
    channels, per_group = strides[3, 1], heads // groups
    scores, sums = np.empty(keys, np.float32), np.empty(width, np.float32)
    for index in range(first, last):
        text, group = index // groups, index % groups
        start_k = text * strides[1, 0] + group * strides[1, 1]
        start_v = text * strides[2, 0] + group * strides[2, 1]
        for head in range(group * per_group, (group + 1) * per_group):
            for query in range(queries):
                start_q = text * strides[0, 0] + head * strides[0, 1] + query * strides[0, 2]
                score_keys(q, start_q, k, start_k, strides[1, 2], channels, scores)
                row = mask[text % mask.shape[0], head % mask.shape[1], query % mask.shape[2]]
                total = normalize_scores(row, scale, scores)
                weighted_sum(scores, v, start_v, strides[2, 2], sums)
                for channel in range(width):
                    out[text, query, head, channel] = (
                        sums[channel] / total if total > np.float32(0.0) else np.float32(0.0)
                    )


def score_keys(q: Floats, start_q: int, k: Floats, start_k: int, stride: int, channels: int, scores: Floats) -> None:
    """Write the dot products of a query, q[start_q :], and keys, k[start_k + stride * key :], to `scores` (S,).

    Channels beyond the last multiple of 16 are added at the end, one by one.
    """
    whole = channels - channels % LANES
    for key in range(len(scores)):
        start = start_k + stride * key
        score = dot_blocks(q, start_q, k, start, whole)
        for c in range(whole, channels):
            score += q[start_q + c] * k[start + c]
        scores[key] = score


def normalize_scores(mask: NDArray[np.uint8], scale: np.float32, scores: Floats) -> np.float32:
    """Replace dot products by weights, and return the sum of these; 0 if every key is masked."""
    largest = np.float32(-np.inf)
    for i in range(len(scores)):
        scores[i] = scores[i] * scale if mask[i] else np.float32(-np.inf)
        largest = max(largest, scores[i])
    largest = largest if largest > np.float32(-np.inf) else np.float32(0.0)
    for i in range(len(scores)):
        scores[i] = exp_value(np.float64(scores[i]) - np.float64(largest))
    total = 0.0
    for i in range(len(scores)):
        total += np.float64(scores[i])
    return np.float32(total)


def weighted_sum(weights: Floats, v: Floats, start: int, stride: int, sums: Floats) -> None:
    """Write the sum over keys of weight times value to `sums` (d,); the value of a key is v[start + stride * key :]."""
    width, keys = len(sums), len(weights)
    sums[:] = np.float32(0.0)
    for key in range(0, keys - 3, 4):
        w0, w1, w2, w3 = weights[key], weights[key + 1], weights[key + 2], weights[key + 3]
        at = start + stride * key
        v0, v1 = v[at : at + width], v[at + stride : at + stride + width]
        v2, v3 = v[at + 2 * stride : at + 2 * stride + width], v[at + 3 * stride : at + 3 * stride + width]
        for c in range(width):
            sums[c] = (((sums[c] + w0 * v0[c]) + w1 * v1[c]) + w2 * v2[c]) + w3 * v3[c]
    for key in range(keys - keys % 4, keys):
        for c in range(width):
            sums[c] += weights[key] * v[start + stride * key + c]
