"""Scaled dot-product attention in a fixed order, independent of masked keys and of the number of queries.

For each query: a score is the sum over channels of query times key, in ascending order, times the scale. A weight is
exp(score - largest score), rounded to float32, and 0 at a masked key. The sum of the weights (float64) and the weighted
sums of the values (float32) go over keys in ascending order; the latter are divided by the former at the end. Adding
zero changes no sum, so a text gives the same bits alone or padded, and read at once or in pieces.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitgolf.portable.elementary import exp_value

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
    # the keys of one head, a row for each channel; of odd length, since a power of two would waste the cache
    columns = np.empty((channels, keys | 31), np.float32)
    scores, sums = np.empty(keys, np.float32), np.empty(width, np.float32)
    for index in range(first, last):
        text, group = index // groups, index % groups
        start = text * strides[1, 0] + group * strides[1, 1]
        transpose_keys(k, start, strides[1, 2], keys, columns)
        start_v = text * strides[2, 0] + group * strides[2, 1]
        for head in range(group * per_group, (group + 1) * per_group):
            for query in range(queries):
                start = text * strides[0, 0] + head * strides[0, 1] + query * strides[0, 2]
                score_keys(q, start, columns, scale, scores)
                row = mask[text % mask.shape[0], head % mask.shape[1], query % mask.shape[2]]
                total = normalize_scores(row, scores)
                weighted_sum(scores, v, start_v, strides[2, 2], sums)
                for channel in range(width):
                    out[text, query, head, channel] = sums[channel] / total if total > np.float32(0.0) else np.float32(0.0)


def transpose_keys(k: Floats, start: int, stride: int, keys: int, columns: Floats) -> None:
    """Write the keys of a head, k[start + stride * key :], to `columns`, a row for each channel."""
    for first in range(0, keys, 8):
        last = min(first + 8, keys)
        for channel in range(columns.shape[0]):
            for key in range(first, last):
                columns[channel, key] = k[start + stride * key + channel]


def score_keys(q: Floats, start: int, columns: Floats, scale: np.float32, scores: Floats) -> None:
    """Write the scores of a query, q[start:], and of all keys, (d, S), to `scores` (S,)."""
    channels = columns.shape[0]
    scores[:] = np.float32(0.0)
    for c in range(0, channels - 3, 4):
        q0, q1, q2, q3 = q[start + c], q[start + c + 1], q[start + c + 2], q[start + c + 3]
        k0, k1, k2, k3 = columns[c], columns[c + 1], columns[c + 2], columns[c + 3]
        for i in range(len(scores)):
            scores[i] = (((scores[i] + q0 * k0[i]) + q1 * k1[i]) + q2 * k2[i]) + q3 * k3[i]
    for c in range(channels - channels % 4, channels):
        for i in range(len(scores)):
            scores[i] += q[start + c] * columns[c, i]
    for i in range(len(scores)):
        scores[i] *= scale


def normalize_scores(mask: NDArray[np.uint8], scores: Floats) -> np.float32:
    """Replace scores by weights, and return the sum of these; 0 if every key is masked."""
    largest = np.float32(-np.inf)
    for i in range(len(scores)):
        scores[i] = scores[i] if mask[i] else np.float32(-np.inf)
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
