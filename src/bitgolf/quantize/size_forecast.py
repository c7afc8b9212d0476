"""Forecast of the packed size of a model before it is trained.

The codecs and coders of the recipe run on a sample of random Gaussian rows of the model's own row lengths. The bytes
per element of each stream are then scaled to its full number of elements. For a codec that allocates steps by
sensitivity (`TrellisCodec`), the sampled rows and columns get random standard deviations and random calibration
statistics.
Sources of error: heavier tails than Gaussian, matrices of different scale, and short training runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bitgolf.config.spec import Spec
from bitgolf.pack.streams import CoderRules, Layout, pack_tensors
from bitgolf.quantize.codecs.codec import Codec, Shape, matrix_shape
from bitgolf.quantize.codecs.joint_encoding import JointCodec, forecast_extra_bytes
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.encoding import Roles, Rules, codecs_by_path, context_models, encode_model, layout
from bitgolf.quantize.stats import MatrixStats, identity_stats

SAMPLE_WEIGHTS = 1 << 19  # sampled weights in all
MIN_ROWS = 64  # of a sampled matrix; with fewer, the standard deviations of its columns are noise
LOG2_STD_SPREAD = 0.4  # standard deviation of log2(std) over the rows of a matrix, and over its columns
FISHER_SPREAD, HESSIAN_SPREAD, SENSITIVITY_CORRELATION = (
    0.6,
    0.5,
    0.8,
)  # standard deviation of log2(step) from calibration: over rows, over columns; its correlation with log2(std)
FORECAST_STATES = 4
"""States of the trellis that encodes the sample. The bytes are within 0.05 % of those with 256 states at 2.5 bits per
weight and more, and within 0.6 % at 1.5 bits. The search needs no compiler (`viterbi.search_columns`)."""
WIDEST_BLOCK = 65_536
DEFAULT_STD = 0.3  # of weights trained by Muon without weight decay; affects only codecs with a fixed step
STD_TIMES_DECAY = 0.0067  # std = this / decay: fits pull requests 265 to 1285, whose step was 1/31 in all rows


def matrix_std(decay: float) -> float:
    """Estimated standard deviation of the weights of a fully trained matrix, for a given weight decay."""
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
    """Section of the artifact -> predicted size in whole bytes.

    shapes, roles: path -> shape and role of each tensor of the model.
    groups: path -> name of the group that is coded together, as in `pack_tensors`; None groups by role.
    spread: standard deviation of the weights of tensors with role `matrix`.
    """
    extra = forecast_extra_bytes(codecs_by_path(roles, rules), shapes)
    groups, generator, rules = groups or roles, torch.Generator().manual_seed(0), _simplified(rules)
    sampled, stats = dict[str, Tensor](), dict[str, MatrixStats]()
    codecs = codecs_by_path(roles, rules)
    allocated = any(
        isinstance(codec, TrellisCodec) for codec in codecs.values()
    )  # only this codec derives its steps from the statistics
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
    return {s.name: round(len(s.data) * scale.get(_without_dtype(s.name), 1)) for s in sections} | extra


def _simplified(rules: Rules) -> Rules:
    """The rules with at most `FORECAST_STATES` states in each trellis, and with all columns solved together.

    A `JointCodec` is replaced by the codec that it extends: what it adds to a few tensors does not grow with the sample.
    """

    def reduced(value: Any) -> Any:
        if not isinstance(value, Spec):
            return value
        if isinstance(value.cls, type) and issubclass(value.cls, JointCodec):
            return reduced(value["codec"])
        node = value.replace(**{key: reduced(item) for key, item in value.kwargs.items()})
        if node.cls is not TrellisCodec:
            return node
        solver = node["solver"] and node["solver"].replace(block=WIDEST_BLOCK)
        return node.replace(states=min(node["states"], FORECAST_STATES), solver=solver)

    return tuple(map(reduced, rules))


def _sample(
    shapes: Mapping[str, Shape], codecs: Mapping[str, Codec], roles: Roles, groups: Mapping[str, str]
) -> dict[str, Shape]:
    """Path -> shape of the sample. Every tensor contributes the same share of its weights.

    Equal shares keep the bit budget of a rule and the frequency tables of a group representative. The rows of equal
    matrices are gathered in as few matrices as can hold them, with at least `MIN_ROWS` rows each.
    """
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
    """`w` (R, C), scaled to log-normal standard deviations of rows and columns, and correlated statistics for it."""

    def draw(n: int, log2_step_spread: float) -> tuple[Tensor, Tensor]:
        """(n,) standard deviations and (n,) sensitivities; a step is sensitivity ** -0.5."""
        own, other = torch.randn(2, n, generator=generator)
        return 2 ** (LOG2_STD_SPREAD * own), 4 ** (
            log2_step_spread * (SENSITIVITY_CORRELATION * own + math.sqrt(1 - SENSITIVITY_CORRELATION**2) * other)
        )

    (rows, outputs), (columns, inputs) = draw(len(w), FISHER_SPREAD), draw(w.shape[1], HESSIAN_SPREAD)
    return w * rows[:, None] * columns, MatrixStats(torch.diag(inputs), outputs, 1)


def _elements(layout: Layout, groups: Mapping[str, str]) -> Counter[str]:
    """`group.array` -> number of elements. Counted by array, as only some arrays grow with the number of rows."""
    count = Counter[str]()
    for path, arrays in layout.items():
        for name, (_, shape) in arrays.items():
            count[f"{groups[path]}.{name}"] += math.prod(shape)
    return count


def _without_dtype(section: str) -> str:
    """The name of a section without its suffix for the data type, if it has one."""
    return ".".join(section.split(".")[:2])
