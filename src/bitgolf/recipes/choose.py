"""`choose`: the sizes of the recipe `auto` for a byte cap, a clock, a text and the speed of a machine.

Every combination of width, vocabulary and bits that fits the cap is given the loss that `scaling` predicts for it when
the clock has run out; the least is taken. The other sizes follow by the rules below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from bitgolf.errors import UsageError
from bitgolf.recipes import scaling_laws
from bitgolf.recipes.sizes import RecipeSizes

if TYPE_CHECKING:
    from bitgolf.pack.settings import Counted

WIDTHS = (32, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048)
VOCABULARIES = tuple(scaling_laws.BYTES_PER_TOKEN)
TEXT_BYTES_PER_PIECE = 400
"""Least bytes of text for each piece of the vocabulary, so that every piece is seen often enough to be learnt."""
LEAST_VOCABULARY = 1024
"""Smaller ones were not measured; only texts that are too small for it have one."""
WEIGHTS_PER_TEXT_BYTE = 1.0
"""Most weights for each byte of text: a larger model learns a small text by heart. An assumption, not measured."""
CAP_MARGIN = 0.98
"""Share of the cap that is filled by forecast: forecasts of `TrellisCodec` err by 2 % (docs/measurements.md)."""
CODE_COUNTS_FROM = 16_000_000
"""Least cap that limits the model and the script of `export` together, as in the challenge; a smaller one the model."""
SCRIPT_BYTES = 60_000
"""Bytes that a script of this recipe has at most."""
CALIBRATION_SHARE = 0.03
"""Share of the clock for calibration, which takes twice as long for a token as training (`results/quickstart.jsonl`)."""
CALIBRATION_ROWS, MOST_CALIBRATION_BATCHES = 8, 128
SCORING_PASSES = 15
"""Forward passes over a held-out token in all: weights before packing twice, contiguous, sliding and mixed scoring."""
LEAST_SCORED_TOKENS = 20_000

MOST_BATCH_TOKENS = 2.0**22
MICRO_BATCH_TOKENS = 32_768
"""Most tokens of a batch, and of a micro-batch; on a GPU, training lowers it to fit the memory."""
MOST_WEIGHT_DECAY, STEPS_OF_DECAY = 0.04, 2_000
"""Weight decay of Muon as in `midsize`, and less in fewer steps: it matters in long runs and on repeated text."""

REFERENCE_SPEED = 1.8e11
"""Training speed of the two x86-64 cores of the README's table, in operations per second as `scaling_laws.token_cost` counts:
20,000 tokens of `quickstart`."""

RANGES = {"cap": (30_000, 10**9), "seconds": (10.0, 30 * 86_400.0), "text": (2_000, 10**15), "speed": (1e7, 1e20)}
"""Limits of the inputs: bytes, seconds, bytes, floating-point operations per second."""


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What is given. cap: bytes, of what `counted` says. seconds: of training, with calibration. text_bytes: size of the text.

    speed: training speed of the machine, in floating-point operations per second. vocab: tokens of the vocabulary if the
    text is tokenized already, 0 if it can be chosen.
    """

    cap: int
    seconds: float
    text_bytes: int
    speed: float
    vocab: int = 0

    @property
    def counted(self) -> Counted:
        """What the cap limits, as `Pack.counted`."""
        return "model+code" if self.cap >= CODE_COUNTS_FROM else "model"

    @property
    def model_bytes(self) -> int:
        """Bytes of the cap that are left for the model; never fewer for a larger cap."""
        code_free = CODE_COUNTS_FROM - SCRIPT_BYTES
        return self.cap - SCRIPT_BYTES if self.counted == "model+code" else min(self.cap, code_free)


REFERENCE_BUDGET = Budget(cap=1_000_000, seconds=90.0, text_bytes=12_000_000, speed=REFERENCE_SPEED)
"""The budget of `quickstart`: Python's standard library on two cores."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What is chosen for a budget.

    recipe: the name of the tuned recipe that is taken in the place of the sizes, "" for none. tokens: expected training
    tokens. epochs: expected passes over the text. bytes, trained_bpb, packed_bpb: forecasts. score_tokens: held-out
    tokens to score, so that scoring takes about as long as training.
    """

    budget: Budget
    sizes: RecipeSizes
    recipe: str
    tokens: int
    epochs: float
    bytes: int
    trained_bpb: float
    packed_bpb: float
    score_tokens: int

    @property
    def limit(self) -> str:
        """What keeps the model from being larger: `cap`, `text` or `clock`."""
        if self.sizes.bits < scaling_laws.MOST_BITS:
            return "cap"
        return "text" if self.sizes.steps else "clock"


class Anchor(NamedTuple):
    """A budget for which a recipe of its own was written; it is taken there instead of the rules."""

    cap: int
    seconds: float
    least_speed: float
    recipe: str


ANCHORS = (Anchor(16_000_000, 600.0, 8e14, "bitgolf16"),)
"""Eight H100 train at 1e15 operations per second and more. `bitgolf16` was not yet trained at its size."""


def choose(budget: Budget) -> Choice:
    """The sizes with the least predicted loss. Raises `UsageError` if a number of the budget is out of its range."""
    _check(budget)
    found = list(_candidates(budget))
    if not found:
        message = f"no model with a vocabulary of {budget.vocab:,} fits {budget.cap:,} bytes"
        raise UsageError(message, where="--cap", hint="give a larger cap, or text instead of shards")
    best = min(found, key=lambda candidate: (candidate.packed_bpb, candidate.sizes.weights))
    return msgspec.structs.replace(best, recipe=_anchored(budget))


def _check(budget: Budget) -> None:
    given = {"cap": budget.cap, "seconds": budget.seconds, "text": budget.text_bytes, "speed": budget.speed}
    units = {"cap": "bytes", "seconds": "s", "text": "bytes of text", "speed": "operations per second"}
    for name, value in given.items():
        low, high = RANGES[name]
        if not low <= value <= high:
            message = f"must be from {low:,.10g} to {high:,.10g} {units[name]}, got {value:,.10g}"
            hint = "the rules of `auto` were not measured beyond; write a recipe of your own with --set on another one"
            raise UsageError(message, where=f"--{name}", hint=hint)


def _anchored(budget: Budget) -> str:
    for anchor in ANCHORS:
        if (budget.cap, budget.seconds) == (anchor.cap, anchor.seconds) and budget.speed >= anchor.least_speed:
            return anchor.recipe
    return ""


# ---- candidates ----------------------------------------------------------------------------------------------------


def _candidates(budget: Budget) -> Iterator[Choice]:
    """Yield a choice for each width and vocabulary that fits the cap, with as many bits as fit."""
    for vocab in [budget.vocab] if budget.vocab else _vocabularies(budget.text_bytes):
        for width in WIDTHS:
            shape = sizes_of_shape(width, vocab)
            if width > WIDTHS[0] and shape.matrix_weights > WEIGHTS_PER_TEXT_BYTE * budget.text_bytes:
                break
            bits = 8 * (CAP_MARGIN * budget.model_bytes - scaling_laws.overhead_bytes(shape)) / shape.weights
            if bits >= scaling_laws.LEAST_BITS:
                yield _completed(budget, msgspec.structs.replace(shape, bits=min(bits, scaling_laws.MOST_BITS)))


def _vocabularies(text_bytes: int) -> list[int]:
    most = text_bytes // TEXT_BYTES_PER_PIECE
    return [v for v in VOCABULARIES if LEAST_VOCABULARY <= v <= most] or [VOCABULARIES[0]]


def sizes_of_shape(width: int, vocab: int) -> RecipeSizes:
    """Sizes of a model of this width and vocabulary, with the least batch and the most bits.

    Layers and hidden units are interpolated between `quickstart` (2 of width 128) and #1855 (11 of width 512).
    """
    head = 32 if width < 512 else 64
    heads = width // head
    return RecipeSizes(
        layers=max(2, round(2 * (width / 128) ** 1.23)),
        width=width,
        heads=heads,
        kv_heads=heads if width < 256 else heads // 2,
        hidden=(3 if width < 512 else 4) * width,
        vocab=vocab,
        rows=1,
        length=256,
        micro_rows=0,
        steps=0,
        matrix_lr=0.03,
        table_lr=0.02,
        weight_decay=0.0,
        momentum_steps=300,
        bits=scaling_laws.MOST_BITS,
        calibration_batches=1,
    )


def _completed(budget: Budget, shape: RecipeSizes) -> Choice:
    """The choice of a shape with its bits: tokens of training, batch, rates, calibration, and the forecasts."""
    most = scaling_laws.MOST_EPOCHS * budget.text_bytes / scaling_laws.bytes_per_token(shape.vocab)
    possible = _tokens_in(budget.seconds * (1 - CALIBRATION_SHARE) * budget.speed, shape)
    tokens = min(possible, most)
    sizes = _with_batch(shape, tokens, limited=most < possible)
    trained = scaling_laws.predicted_bpb(sizes, tokens, budget.text_bytes)
    return Choice(
        budget=budget,
        sizes=sizes,
        recipe="",
        tokens=round(tokens),
        epochs=tokens * scaling_laws.bytes_per_token(sizes.vocab) / budget.text_bytes,
        bytes=round(scaling_laws.packed_bytes(sizes)),
        trained_bpb=trained,
        packed_bpb=trained + scaling_laws.packing_bpb(sizes.bits),
        score_tokens=_score_tokens(budget, possible),
    )


def _tokens_in(flops: float, shape: RecipeSizes) -> float:
    """Training tokens for which so many operations suffice, by bisection: length and batch grow with the tokens."""
    low, high = 0.0, math.log(max(flops, math.e))
    for _ in range(40):
        middle = (low + high) / 2
        tokens = math.exp(middle)
        cost = tokens * scaling_laws.token_cost(shape, _smooth_length(tokens), _smooth_batch(tokens, shape.width))
        low, high = (middle, high) if cost <= flops else (low, middle)
    return math.exp(low)


# ---- rules ---------------------------------------------------------------------------------------------------------


def _smooth_length(tokens: float) -> float:
    """Tokens of a sequence: 256 up to 20 million training tokens (`quickstart`), 2,048 from 4 billion on (#1855)."""
    return min(2048.0, max(256.0, 256 * (tokens / 20e6) ** 0.39))


def _smooth_batch(tokens: float, width: int) -> float:
    """Tokens of a batch: 2,048 at 1.85 million training tokens, as in `quickstart`, and more in longer runs.

    The exponent lies between that of the best batch in published fits (0.4, Bergsma et al. 2025, arXiv 2505.13738) and of
    a line from `quickstart` to #1855 (0.775), whose eight GPUs need large batches. At least 8 tokens for each channel of
    the width: with fewer, the update of Muon takes longer than the gradient.
    """
    return min(MOST_BATCH_TOKENS, max(512.0, 8.0 * width, 2048 * (tokens / 1.85e6) ** 0.6))


def _power_of_two(value: float) -> int:
    """The nearest power of two, by ratio."""
    return 2 ** round(math.log2(value))


def _with_batch(shape: RecipeSizes, tokens: float, *, limited: bool) -> RecipeSizes:
    """The sizes with batch, rates, limit of steps and calibration. limited: the text ends training, not the clock."""
    length = _power_of_two(_smooth_length(tokens))
    rows = max(1, round(_smooth_batch(tokens, shape.width) / length))
    steps = max(1, round(tokens / (rows * length)))
    calibration = CALIBRATION_SHARE / 2 * tokens / (CALIBRATION_ROWS * length)
    return msgspec.structs.replace(
        shape,
        length=length,
        rows=rows,
        micro_rows=max(1, min(rows, MICRO_BATCH_TOKENS // length)),
        steps=steps if limited else 0,
        weight_decay=MOST_WEIGHT_DECAY * min(1.0, steps / STEPS_OF_DECAY),
        momentum_steps=max(1, min(1500, round(steps / 3))),
        calibration_batches=min(MOST_CALIBRATION_BATCHES, max(2, round(calibration))),
    )


def _score_tokens(budget: Budget, tokens: float) -> int:
    """Held-out tokens that can be scored in the time of training."""
    return max(LEAST_SCORED_TOKENS, round(tokens * 3 / SCORING_PASSES))
