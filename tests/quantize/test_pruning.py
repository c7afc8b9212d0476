"""Zeros until it fits: the cheapest, as many as needed and no more (property P1)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitgolf.config.spec import part
from bitgolf.errors import BitgolfError
from bitgolf.grids.clip import SdClip
from bitgolf.grids.scales import LogScale
from bitgolf.pack.coders import Range
from bitgolf.pack.streams import Code, pack_codes
from bitgolf.quantize.codecs.codec import Float, IntRows
from bitgolf.quantize.codecs.gptq import Gptq
from bitgolf.quantize.codecs.pruning import Codes, Cost, costs, prune_to
from bitgolf.quantize.stats import Calibration, Stats

CODEC = IntRows(bits=6, clip=part(SdClip, k=12.85), scales=part(LogScale, per_octave=8))
SHAPES = {"a": (24, 32), "b": (16, 40)}


def matrix(seed: int, rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def statistics(seed: int, rows: int, columns: int) -> Stats:
    """Inputs that go together, some louder than others; outputs of different weight."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) * torch.logspace(0, -1, columns)
    x = torch.randn(400, columns, generator=generator) @ mix
    return Stats(x.T @ x / 400, torch.randn(rows, generator=generator).exp(), 400)


WEIGHTS = {path: matrix(i, *shape) for i, (path, shape) in enumerate(SHAPES.items())}
STATS: Calibration = {path: statistics(i, *shape) for i, (path, shape) in enumerate(SHAPES.items())}
CODES: dict[str, Code] = {p: CODEC.encode(w) for p, w in WEIGHTS.items()} | {
    "gain": Float(dtype="float16").encode(torch.ones(7))
}
STEPS = {path: CODEC.steps(CODES[path]) for path in WEIGHTS}


def packed(codes: Codes) -> int:
    return sum(len(s.data) for s in pack_codes(codes, dict.fromkeys(codes, "matrix"), part(Range)))


def zeroed(codes: Codes) -> int:
    """How many codes are zero that were not; nothing else has changed."""
    count = 0
    assert codes.keys() == CODES.keys() and codes["gain"] is CODES["gain"]
    for path in WEIGHTS:
        old, new = CODES[path]["codes"], codes[path]["codes"]
        gone = old != new
        assert (
            new.dtype == np.int8 and new.shape == old.shape and (np.abs(old[gone]) == 1).all() and not new[gone].any()
        )
        assert codes[path]["scales"] is CODES[path]["scales"]
        count += int(gone.sum())
    return count


def pruned(size: int, cost: Cost = "true", stats: Calibration = STATS) -> dict[str, Code]:
    """With `size` codes fewer than one could keep: the number of codes that are not zero is their size."""
    return prune_to(CODES, WEIGHTS, STEPS, stats, count, size, cost=cost)


def count(codes: Codes) -> int:
    return sum(int(np.count_nonzero(codes[path]["codes"])) for path in WEIGHTS)


ONES = sum(int((np.abs(CODES[path]["codes"]) == 1).sum()) for path in WEIGHTS)


@settings(max_examples=40, deadline=None)
@given(wanted=st.integers(0, ONES), cost=st.sampled_from(["true", "step"]))
def test_as_many_as_are_needed_and_no_more(wanted: int, cost: Cost) -> None:
    before = [code["codes"].copy() for path, code in CODES.items() if path in WEIGHTS]
    assert zeroed(pruned(count(CODES) - wanted, cost)) == wanted
    assert all(np.array_equal(a, CODES[path]["codes"]) for a, path in zip(before, WEIGHTS, strict=True))


@settings(max_examples=10, deadline=None)
@given(saved=st.floats(0.02, 0.9))
def test_a_packed_model_fits_tightly(saved: float) -> None:
    full, least = packed(CODES), packed(prune_to(CODES, WEIGHTS, STEPS, {}, count, count(CODES) - ONES))
    cap = round(full - saved * (full - least))
    sizes: dict[int, int] = {}

    def size_of(codes: Codes) -> int:
        return sizes.setdefault(zeroed(codes), packed(codes))

    found = zeroed(prune_to(CODES, WEIGHTS, STEPS, STATS, size_of, cap))
    assert sizes[found] <= cap < sizes[found - 1] and 0 < found < ONES
    assert len(sizes) <= 2 + ONES.bit_length()


def test_what_fits_is_left_alone() -> None:
    assert zeroed(prune_to(CODES, WEIGHTS, STEPS, STATS, packed, packed(CODES))) == 0
    assert zeroed(prune_to(CODES, WEIGHTS, STEPS, STATS, packed, packed(CODES) - 1)) > 0


def test_what_never_fits_is_said() -> None:
    least = count(CODES) - ONES
    assert zeroed(pruned(least)) == ONES
    with pytest.raises(BitgolfError, match=rf"{ONES:,} codes of 1 and -1 it still takes {least:,} bytes") as caught:
        pruned(least - 1)
    assert caught.value.mend and caught.value.place
    with pytest.raises(BitgolfError, match="any of the 0 codes"):
        prune_to(CODES, {}, {}, {}, count, 1)


# ---- costs -----------------------------------------------------------------------------------------------------------


def growth(code: Code, w: Tensor, step: Tensor, stats: Stats, i: int, j: int) -> float:
    """By brute force: twice what the model of cost says, before and after."""
    q = torch.from_numpy(code["codes"].copy()).float()
    before = stats.cost(q * step[:, None] - w)[i]
    q[i, j] = 0
    return 2 * float(stats.cost(q * step[:, None] - w)[i] - before)


@pytest.mark.parametrize("solved", [False, True])
def test_the_true_cost_is_what_one_zero_adds(solved: bool) -> None:
    w, stats = WEIGHTS["a"], STATS["a"]
    codec = IntRows(bits=6, solve=part(Gptq)) if solved else CODEC
    code = codec.encode(w, stats)
    step = codec.steps(code)
    found = costs(code["codes"], w, step, stats)
    ones = np.argwhere(np.abs(code["codes"]) == 1)
    assert torch.equal(found.isfinite(), torch.from_numpy(np.abs(code["codes"]) == 1)) and len(ones) > 50
    for i, j in ones[::7].tolist():
        wanted = growth(code, w, step, stats, i, j)
        assert float(found[i, j]) == pytest.approx(
            wanted, rel=1e-3, abs=1e-3 * float(found[found.isfinite()].abs().max())
        )


def test_where_inputs_are_uncorrelated_the_residual_decides() -> None:
    w, code, step = WEIGHTS["a"], CODES["a"], STEPS["a"][:, None]
    q = torch.from_numpy(code["codes"]).float()
    plain = w.square() - (w - q * step).square()
    h, outputs = torch.rand(32) + 0.1, torch.rand(24) + 0.1
    ones = q.abs() == 1
    for stats, wanted in (
        (None, plain),
        (Stats(torch.diag(h), outputs, 1), plain * h * outputs[:, None]),
    ):
        found = costs(code["codes"], w, STEPS["a"], stats)
        assert torch.allclose(found[ones], wanted[ones], atol=1e-6) and found[~ones].isinf().all()
    assert (plain[ones] > -1e-6).all(), "a code to the nearest is never the worse for its being there"
    squares = costs(code["codes"], w, STEPS["a"], STATS["a"], "step")
    assert torch.equal(squares[ones], step.square().expand(24, 32)[ones]) and squares[~ones].isinf().all()


def test_the_cheapest_go_first() -> None:
    wanted = torch.cat([costs(CODES[p]["codes"], WEIGHTS[p], STEPS[p], STATS[p]).flatten() for p in sorted(WEIGHTS)])
    n = ONES // 3
    after = pruned(count(CODES) - n)
    gone = np.concatenate([(CODES[p]["codes"] != after[p]["codes"]).reshape(-1) for p in sorted(WEIGHTS)])
    assert gone.sum() == n and wanted[gone].max() <= wanted[~gone].min()


def test_the_true_cost_harms_less_than_the_step() -> None:
    def harm(cost: Cost) -> float:
        after, found = pruned(count(CODES) - ONES // 3, cost), 0.0
        for path, w in WEIGHTS.items():
            error = CODEC.decode(after[path], SHAPES[path]) - w
            found += float(
                (STATS[path].cost(error) - STATS[path].cost(CODEC.decode(CODES[path], SHAPES[path]) - w)).sum()
            )
        return found

    assert harm("true") < 0.5 * harm("step") and harm("step") > 0
