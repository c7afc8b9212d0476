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

from bitgolf.pack.streams import Coding, Layout, pack_codes
from bitgolf.quantize.codecs.codec import Codec, Shape, matrix_shape
from bitgolf.quantize.codecs.trellis import Trellis
from bitgolf.quantize.encoding import Roles, Rules, assign, encode_all, layout, walks
from bitgolf.quantize.stats import Stats, flat

SAMPLE = 1 << 19  # weights of a model
LEAST_ROWS = 64  # of a sampled matrix, or what is said of its columns is noise
UNEVEN = 0.4  # octaves by which the spreads of rows differ, and of columns: standard deviation over a model
OUTPUTS, INPUTS, ALIKE = (
    0.6,
    0.5,
    0.8,
)  # the same of the steps that calibration asks for, and their correlation with spreads
SPREAD = 0.3  # standard deviation, as Muon leaves it without decay; it matters only to codecs with a fixed step
DECAYED = 0.0067  # this / decay with it: so in the files of #265 to #1285, whose steps were 1/31 in all rows


def spread(decay: float) -> float:
    """The standard deviation of matrices that were trained to the end with this weight decay."""
    return min(SPREAD, DECAYED / decay) if decay > 0 else SPREAD


def forecast(
    shapes: Mapping[str, Shape],
    roles: Roles,
    rules: Rules,
    coder: Coding,
    groups: Mapping[str, str] | None = None,
    *,
    spread: float = SPREAD,
) -> dict[str, int]:
    """Section -> bytes, rounded to whole bytes. `shapes`, `roles`: path -> shape and role, as in the model.

    groups: path -> what is coded together, as in `pack_codes`; None: by role.  spread: the standard deviation of matrices.
    """
    groups, generator = groups or roles, torch.Generator().manual_seed(0)
    sampled, stats = dict[str, Tensor](), dict[str, Stats]()
    codecs = assign(roles, rules)
    allocated = any(
        isinstance(codec, Trellis) for codec in codecs.values()
    )  # only there does unevenness decide the steps
    for path, shape in _sample(shapes, codecs, roles, groups).items():
        size = spread if roles[path] == "matrix" else SPREAD
        sampled[path] = size * torch.randn(shape, generator=generator)
        if isinstance(codecs[path], Trellis) and len(shape) == 2:
            sampled[path], stats[path] = _uneven(sampled[path], generator)
        elif allocated and codecs[path].calibrated:
            stats[path] = flat(*matrix_shape(shape))
    kinds, found = {p: roles[p] for p in sampled}, {p: tuple(w.shape) for p, w in sampled.items()}
    sections = pack_codes(
        encode_all(sampled, kinds, rules, stats if allocated else None), groups, coder, walks(found, kinds, rules)
    )
    whole, taken = _elements(layout(shapes, roles, rules), groups), _elements(layout(found, kinds, rules), groups)
    scale = {kind: whole[kind] / taken[kind] for kind in taken if taken[kind]}
    return {s.name: round(len(s.data) * scale.get(_kind(s.name), 1)) for s in sections}


def _sample(
    shapes: Mapping[str, Shape], codecs: Mapping[str, Codec], roles: Roles, groups: Mapping[str, str]
) -> dict[str, Shape]:
    """path -> shape of what is sampled: the same share of everything, since codecs share budgets and groups share tables, in
    as few matrices of each shape as have the rows."""
    share, alike = min(1.0, SAMPLE / sum(map(math.prod, shapes.values()))), dict[tuple[Any, ...], list[str]]()
    for path, codec in codecs.items():
        alike.setdefault((codec, roles[path], groups[path], shapes[path]), []).append(path)
    found: dict[str, Shape] = {}
    for (*_, shape), paths in alike.items():
        if len(shape) > 1:
            rows = len(paths) * shape[0] * share
            paths = paths[: max(1, int(rows / LEAST_ROWS))]
            shape = (min(shape[0], max(1, round(rows / len(paths)))), *shape[1:])
        found.update(dict.fromkeys(paths, shape))
    return found


def _uneven(w: Tensor, generator: torch.Generator) -> tuple[Tensor, Stats]:
    """Rows and columns as training leaves them, more or less, and what a calibration might say of the matrix."""

    def draw(n: int, matters: float) -> tuple[Tensor, Tensor]:
        own, other = torch.randn(2, n, generator=generator)
        return 2 ** (UNEVEN * own), 4 ** (matters * (ALIKE * own + math.sqrt(1 - ALIKE**2) * other))

    (rows, outputs), (columns, inputs) = draw(len(w), OUTPUTS), draw(w.shape[1], INPUTS)
    return w * rows[:, None] * columns, Stats(torch.diag(inputs), outputs, 1)


def _elements(layout: Layout, groups: Mapping[str, str]) -> Counter[str]:
    """`group.array` -> elements: not every array grows with the rows, which alone are sampled."""
    count = Counter[str]()
    for path, arrays in layout.items():
        for name, (_, shape) in arrays.items():
            count[f"{groups[path]}.{name}"] += math.prod(shape)
    return count


def _kind(section: str) -> str:
    """A section's name without the type that some have at the end."""
    return ".".join(section.split(".")[:2])
