"""How many bytes a model will pack to, before it is trained.

Each stream's codec and coder run on a sample of random Gaussian rows with the stream's own row length, and the bytes per
element found there are scaled to all of it. Where steps are allocated, rows and columns are uneven, and so is what
calibration says of them. What differs from that in a trained model (heavier tails, matrices that are smaller than
others, short runs) is the forecast's error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bitgolf.pack.streams import CoderRules, Layout, pack_tensors
from bitgolf.quantize.codecs.codec import Codec, Shape, matrix_shape
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.encoding import Roles, Rules, codecs_by_path, context_models, encode_model, layout
from bitgolf.quantize.stats import MatrixStats, identity_stats

SAMPLE_WEIGHTS = 1 << 19  # weights of a model
MIN_ROWS = 64  # of a sampled matrix, or what is said of its columns is noise
LOG2_STD_SPREAD = 0.4  # octaves by which the spreads of rows differ, and of columns: standard deviation over a model
FISHER_SPREAD, HESSIAN_SPREAD, SENSITIVITY_CORRELATION = (
    0.6,
    0.5,
    0.8,
)  # the same of the steps that calibration asks for, and their correlation with spreads
DEFAULT_STD = 0.3  # standard deviation, as Muon leaves it without decay; it matters only to codecs with a fixed step
STD_TIMES_DECAY = 0.0067  # this / decay with it: so in the files of #265 to #1285, whose steps were 1/31 in all rows


def matrix_std(decay: float) -> float:
    """The standard deviation of matrices that were trained to the end with this weight decay."""
    return min(DEFAULT_STD, STD_TIMES_DECAY / decay) if decay > 0 else DEFAULT_STD


def forecast_bytes(
    shapes: Mapping[str, Shape],
    roles: Roles,
    rules: Rules,
    coder: CoderRules,
    groups: Mapping[str, str] | None = None,
    *,
    spread: float = DEFAULT_STD,
) -> dict[str, int]:
    """Section -> bytes, rounded to whole bytes. `shapes`, `roles`: path -> shape and role, as in the model.

    groups: path -> what is coded together, as in `pack_tensors`; None: by role.  spread: the standard deviation of matrices.
    """
    groups, generator = groups or roles, torch.Generator().manual_seed(0)
    sampled, stats = dict[str, Tensor](), dict[str, MatrixStats]()
    codecs = codecs_by_path(roles, rules)
    allocated = any(
        isinstance(codec, TrellisCodec) for codec in codecs.values()
    )  # only there does unevenness decide the steps
    for path, shape in _sample(shapes, codecs, roles, groups).items():
        size = spread if roles[path] == "matrix" else DEFAULT_STD
        sampled[path] = size * torch.randn(shape, generator=generator)
        if isinstance(codecs[path], TrellisCodec) and len(shape) == 2:
            sampled[path], stats[path] = _uneven_matrix(sampled[path], generator)
        elif allocated and codecs[path].needs_calibration:
            stats[path] = identity_stats(*matrix_shape(shape))
    kinds, found = {p: roles[p] for p in sampled}, {p: tuple(w.shape) for p, w in sampled.items()}
    sections = pack_tensors(
        encode_model(sampled, kinds, rules, stats if allocated else None),
        groups,
        coder,
        context_models(found, kinds, rules),
    )
    whole, taken = _elements(layout(shapes, roles, rules), groups), _elements(layout(found, kinds, rules), groups)
    scale = {kind: whole[kind] / taken[kind] for kind in taken if taken[kind]}
    return {s.name: round(len(s.data) * scale.get(_without_dtype(s.name), 1)) for s in sections}


def _sample(
    shapes: Mapping[str, Shape], codecs: Mapping[str, Codec], roles: Roles, groups: Mapping[str, str]
) -> dict[str, Shape]:
    """path -> shape of what is sampled: the same share of everything, since codecs share budgets and groups share tables, in
    as few matrices of each shape as have the rows."""
    share, alike = min(1.0, SAMPLE_WEIGHTS / sum(map(math.prod, shapes.values()))), dict[tuple[Any, ...], list[str]]()
    for path, codec in codecs.items():
        alike.setdefault((codec, roles[path], groups[path], shapes[path]), []).append(path)
    found: dict[str, Shape] = {}
    for (*_, shape), paths in alike.items():
        if len(shape) > 1:
            rows = len(paths) * shape[0] * share
            paths = paths[: max(1, int(rows / MIN_ROWS))]
            shape = (min(shape[0], max(1, round(rows / len(paths)))), *shape[1:])
        found.update(dict.fromkeys(paths, shape))
    return found


def _uneven_matrix(w: Tensor, generator: torch.Generator) -> tuple[Tensor, MatrixStats]:
    """Rows and columns as training leaves them, more or less, and what a calibration might say of the matrix."""

    def draw(n: int, matters: float) -> tuple[Tensor, Tensor]:
        own, other = torch.randn(2, n, generator=generator)
        return 2 ** (LOG2_STD_SPREAD * own), 4 ** (
            matters * (SENSITIVITY_CORRELATION * own + math.sqrt(1 - SENSITIVITY_CORRELATION**2) * other)
        )

    (rows, outputs), (columns, inputs) = draw(len(w), FISHER_SPREAD), draw(w.shape[1], HESSIAN_SPREAD)
    return w * rows[:, None] * columns, MatrixStats(torch.diag(inputs), outputs, 1)


def _elements(layout: Layout, groups: Mapping[str, str]) -> Counter[str]:
    """`group.array` -> elements: not every array grows with the rows, which alone are sampled."""
    count = Counter[str]()
    for path, arrays in layout.items():
        for name, (_, shape) in arrays.items():
            count[f"{groups[path]}.{name}"] += math.prod(shape)
    return count


def _without_dtype(section: str) -> str:
    """A section's name without the type that some have at the end."""
    return ".".join(section.split(".")[:2])
