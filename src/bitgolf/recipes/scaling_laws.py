"""How loss, time and bytes depend on the sizes of a model: the fitted rules behind the recipe `auto`.

The constants were fitted by `bench/auto_fit.py` to runs of `results/auto_grid.jsonl` (English, two x86-64 cores);
docs/measurements.md has the runs, the residuals and what is an assumption.
"""

from __future__ import annotations

import math
from bisect import bisect_right

from bitgolf.recipes.sizes import RecipeSizes

# ---- loss ----------------------------------------------------------------------------------------------------------

LIMIT_BPB = 0.6
"""Loss of an endless model on endless text, which runs of this size cannot tell: 1.69 nats per token of about 4 bytes
(Hoffmann et al. 2022, arXiv 2203.15556)."""
SIZE_BPB, SIZE_EXPONENT = 4.205, 0.15
"""Loss added by a finite model: SIZE_BPB * (weights, with the table) ** -SIZE_EXPONENT (Hoffmann et al. 2022, arXiv 2203.15556).
Without the weights of the table, the loss of small models with 1,024 pieces was predicted 0.026 bpb too low."""
DATA_BPB, DATA_EXPONENT = 11.11, 0.175
"""Loss added by a finite training: DATA_BPB * (text bytes seen) ** -DATA_EXPONENT."""
VOCABULARY_BPB, VOCABULARY_EXPONENT = 1.545, 0.5
"""Loss added by pieces that are seldom seen: VOCABULARY_BPB * (vocabulary / training tokens) ** VOCABULARY_EXPONENT. A larger
vocabulary gains by reading more text in the same tokens."""

EPOCHS_OF_USE = 15.4
"""Repetitions of a text have the value of at most this many new ones (Muennighoff et al. 2023, arXiv 2305.16264)."""
MOST_EPOCHS = 40
"""Passes over the text after which training ends: further ones are worth nothing by the same source."""

BYTES_PER_TOKEN = {512: 2.1, 1024: 2.69, 2048: 3.29, 4096: 3.89, 8192: 4.45}
"""Vocabulary -> bytes of English text per token of `SentencePieceBPE`."""


def bytes_per_token(vocab: int) -> float:
    """Bytes of text per token, interpolated in the logarithm of the vocabulary."""
    known = sorted(BYTES_PER_TOKEN)
    right = min(max(1, bisect_right(known, vocab)), len(known) - 1)
    low, high = known[right - 1], known[right]
    share = math.log(vocab / low) / math.log(high / low)
    return BYTES_PER_TOKEN[low] + share * (BYTES_PER_TOKEN[high] - BYTES_PER_TOKEN[low])


def unique_equivalent(seen: float, text: float) -> float:
    """Bytes of new text that are worth as much as `seen` bytes of training on a text of `text` bytes."""
    repeated = max(0.0, seen / text - 1)
    return min(seen, text) + text * EPOCHS_OF_USE * (1 - math.exp(-repeated / EPOCHS_OF_USE))


def predicted_bpb(sizes: RecipeSizes, tokens: float, text_bytes: float) -> float:
    """Bits per byte of the trained weights after this many training tokens, before packing."""
    seen = unique_equivalent(tokens * bytes_per_token(sizes.vocab), text_bytes)
    size = SIZE_BPB * sizes.weights**-SIZE_EXPONENT
    rare = VOCABULARY_BPB * (sizes.vocab / tokens) ** VOCABULARY_EXPONENT
    return LIMIT_BPB + size + rare + DATA_BPB * seen**-DATA_EXPONENT


# ---- bits and bytes ------------------------------------------------------------------------------------------------

LEAST_BITS, MOST_BITS = 2.0, 5.0
"""Bits per weight that are chosen. Below 2 nothing was measured; above 5 the loss is below 0.0001 bpb."""
PACKING_BPB, PACKING_BITS = 0.0065, 1.95
PACKING_EXPONENT = 2.45
"""Packing with steps by sensitivity costs PACKING_BPB at PACKING_BITS bits per weight, and half of it for each
1 / PACKING_EXPONENT bits more: 0.0065 at 1.95 bits and 0.0005 at 3.47 (`results/compression.jsonl`, the divergence)."""

EXTRA_BITS = 0.2
"""Bits of a matrix weight beyond those asked for: rates of `TrellisCodec` are estimates (0.18 by the forecast at width 256
and 2 bits; 0.18 as packed at 4.25 bits, 5.3 million weights)."""
FIXED_BYTES, BYTES_PER_CHANNEL = 3_000, 1.25
"""Bytes of the file besides the codes: its header and frequency tables, and for each row and column of a matrix its steps
(forecasts)."""


def packing_bpb(bits: float) -> float:
    """Bits per byte that are lost by storing weights in this many bits each."""
    return PACKING_BPB * 2.0 ** (-PACKING_EXPONENT * (bits - PACKING_BITS))


def packed_bytes(sizes: RecipeSizes) -> float:
    """Bytes of the artifact without its tokenizer."""
    return sizes.weights * sizes.bits / 8 + overhead_bytes(sizes)


def overhead_bytes(sizes: RecipeSizes) -> float:
    """Bytes of the artifact that do not depend on the bits per weight."""
    channels = sizes.vocab + sizes.layers * (6 * sizes.width + 2 * sizes.hidden)
    return FIXED_BYTES + BYTES_PER_CHANNEL * channels + EXTRA_BITS / 8 * sizes.matrix_weights


# ---- time ----------------------------------------------------------------------------------------------------------

STREAM_FLOPS, LOGIT_FLOPS = 10_000.0, 1_000.0
"""Operations that take as long as what is not a matrix product: for each channel of each layer, and for each entry of the
vocabulary, per token."""


def token_cost(sizes: RecipeSizes, length: float, batch_tokens: float) -> float:
    """Time of training for a token, in floating-point operations of matrix products.

    Six for each weight, attention over half a sequence on average, the parts that are no matrix products, and the update
    of Muon: five Newton-Schulz iterations for each matrix and step.
    """
    attention = 6 * sizes.layers * sizes.width * length
    other = STREAM_FLOPS * sizes.layers * sizes.width + LOGIT_FLOPS * sizes.vocab
    return 6 * sizes.weights + attention + other + update_flops(sizes) / batch_tokens


def update_flops(sizes: RecipeSizes) -> float:
    """Operations of a step of Muon: for each matrix of m x n weights, m <= n, 5 * (4 m^2 n + 2 m^3)."""
    shapes = [(sizes.width, sizes.width)] * 4 + [(sizes.width, sizes.hidden)] * 2
    return sizes.layers * sum(5 * (4 * m * m * n + 2 * m**3) for m, n in shapes)
