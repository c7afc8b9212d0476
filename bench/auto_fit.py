"""The constants of `recipes/scaling_laws.py`, fitted to lines of `bench/auto_grid.py`: `python bench/auto_fit.py results/auto_grid.jsonl`

Loss = LIMIT_BPB + a * weights ** -alpha + b * text bytes seen ** -beta + c * (vocabulary / tokens) ** gamma. For given
exponents it is linear in a, b and c; the exponents are searched on a grid.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from auto_grid import GridPoint
from numpy.typing import NDArray
from result_lines import read_lines

from bitgolf.recipes import scaling_laws


class MeasuredRun(NamedTuple):
    """A measured run: weights of matrices and table, tokens of the vocabulary, training tokens, their bytes, bits per byte.

    weight: of its residual in the fit.
    """

    weights: float
    vocab: float
    tokens: float
    seen_bytes: float
    bpb: float
    weight: float = 1.0


EARLIER = (
    MeasuredRun(5.31e6, 1024, 2.62e6, 2.62e6 * 2.7, 1.780 - 0.050, 0.3),
    MeasuredRun(35.2e6, 8192, 3.9e9, 3.9e9 * 3.7, 1.07, 0.3),
)
"""Larger runs, without which the fit would say nothing of larger models. The model of `results/compression.jsonl`, less what
the techniques gain that it lacks (docs/techniques.md, measured at a million weights); and #1855 as published, on
other text, the mean of sliding and contiguous windows being unknown."""

EXPONENTS = np.linspace(0.10, 0.80, 29)
VOCABULARY_EXPONENTS = (0.5, 0.75, 1.0, 1.5)


def loss_runs(lines: list[dict[str, Any]]) -> list[MeasuredRun]:
    """The runs of the unchanged recipe on new text, with the usual batch.

    Runs of fewer than half a token for each weight are left out: `auto` never chooses one, and their loss depends on the
    number of steps more than on their size.
    """
    usual = GridPoint(0, 0, 0, 0)
    found = list[MeasuredRun]()
    for line in lines:
        point = GridPoint(**line["point"])
        trained = line["tokens"] >= line["matrix_weights"] / 2
        if trained and point._replace(layers=0, width=0, vocab=0, kilotokens=0) == usual:
            seen = line["tokens"] * line["text_bytes"] / line["text_tokens"]
            weights = line["matrix_weights"] + line["table_weights"]
            found.append(MeasuredRun(weights, line["vocab"], line["tokens"], seen, line["bpb"]))
    return found


def fit_loss(runs: list[MeasuredRun]) -> tuple[dict[str, float], NDArray[np.float64]]:
    """(the constants with the least sum of squares, without a negative one; the residual of each run in bits per byte)."""
    n, v, t, d, bpb, weight = (np.array(column, float) for column in zip(*runs, strict=True))
    best, found, left = np.inf, dict[str, float](), np.zeros(len(runs))
    names: tuple[str, ...] = ("SIZE_BPB", "DATA_BPB", "VOCABULARY_BPB")
    names += tuple(name.replace("BPB", "EXPONENT") for name in names)
    for alpha, beta, gamma in itertools.product(EXPONENTS, EXPONENTS, VOCABULARY_EXPONENTS):
        columns = np.stack([n**-alpha, d**-beta, (v / t) ** gamma], 1)
        solved = np.linalg.lstsq(columns * weight[:, None], (bpb - scaling_laws.LIMIT_BPB) * weight, rcond=None)[0]
        residual = columns @ solved + scaling_laws.LIMIT_BPB - bpb
        error = float(((residual * weight) ** 2).sum())
        if error < best and (solved >= 0).all():
            best, left = error, residual
            found = dict(zip(names, (*map(float, solved), float(alpha), float(beta), gamma), strict=True))
    return found, left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path, help="file of measured lines")
    lines = read_lines(parser.parse_args().lines)
    runs = loss_runs(lines) + list(EARLIER)
    constants, residuals = fit_loss(runs)
    for name, value in constants.items():
        print(f"{name} = {value:.4g}")
    print(f"residuals, root mean square: {float(np.sqrt(np.mean(residuals**2))):.4f} bpb")
    for run, residual in zip(runs, residuals, strict=True):
        print(f"{run.weights:>12,.0f} weights, vocabulary {run.vocab:>6,.0f}, {run.seen_bytes:>14,.0f} bytes: {run.bpb:.4f} bpb, {residual:+.4f}")  # fmt: skip


if __name__ == "__main__":
    main()
