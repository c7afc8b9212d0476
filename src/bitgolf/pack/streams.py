"""Conversion of encoded tensors to sections of an artifact and back.

An encoded tensor is what a codec makes of one tensor: a few named arrays. Their dtypes and shapes (the layout) follow
from the recipe, so streams contain no metadata. Arrays with the same group (e.g. a role) and the same name are coded as
one stream, in the order of their tensors' paths. They share frequency tables, and the bytes do not depend on dictionary
order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bitgolf.config.rules import Rule, assign_to_rules
from bitgolf.config.spec import Spec, part
from bitgolf.errors import CorruptFileError, RecipeError
from bitgolf.pack import contexts
from bitgolf.pack.byte_planes import Array
from bitgolf.pack.coders import Coder
from bitgolf.pack.contexts import ContextModel, NoContext
from bitgolf.pack.parallel import parallel_map

EncodedTensor = dict[str, Array]
"""Array name -> array."""
Layout = Mapping[str, Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]]
"""Path of a tensor -> array name -> (dtype, shape)."""
ContextModels = Mapping[str, Mapping[str, Callable[[], ContextModel]]]
"""Path of a tensor -> array name -> constructor of a new context model, for arrays that are coded with contexts."""

CoderRules = Spec[Coder] | Sequence[Spec[Rule[Coder]]]


@dataclass(frozen=True)
class Section:
    """One coded stream. `raw_bytes` and `elements` are the size and the number of elements of the decoded arrays."""

    name: str
    codec: str
    data: bytes
    raw_bytes: int
    elements: int


class _Stream(NamedTuple):
    group: str
    dtype: np.dtype[Any]
    arrays: list[tuple[str, str]]  # (path, array name)


def pack_tensors(
    codes: Mapping[str, EncodedTensor],
    groups: Mapping[str, str],
    coder: CoderRules,
    context_models: ContextModels | None = None,
) -> list[Section]:
    """Encode tensors as sections, one per group and array name, e.g. `matrix.codes`.

    groups: path -> group.  coder: one coder for all sections, or rules that match groups as roles and section names as
    paths.  context_models: constructors of context models, from the codecs.
    Raises `RecipeError` if the rules do not cover the sections or do not build coders.
    """
    layout = {path: {name: (a.dtype, a.shape) for name, a in code.items()} for path, code in codes.items()}
    streams = _streams(layout, groups)
    coders = _coders(streams, coder)

    def section(name: str) -> Section:
        arrays = [codes[path][array] for path, array in streams[name].arrays]
        if models := _stream_context_models(streams[name], layout, coders[name], context_models or {}):
            data = contexts.encode(arrays, models, coders[name])
            sizes = sum(a.nbytes for a in arrays), sum(a.size for a in arrays)
            return Section(name, _context_label(coders[name]), data, *sizes)
        return _encode(name, arrays, coders[name])

    return parallel_map(section, streams)


def unpack_tensors(
    sections: Mapping[str, Section],
    layout: Layout,
    groups: Mapping[str, str],
    coder: CoderRules,
    context_models: ContextModels | None = None,
) -> dict[str, EncodedTensor]:
    """The inverse of `pack_tensors`. `sections` must contain these streams only; remove blobs first.

    Raises `CorruptFileError` if the sections do not match the layout. Sizes are compared before anything is decoded.
    """
    streams = _streams(layout, groups)
    if sections.keys() != streams.keys():
        different = ", ".join(sorted(sections.keys() ^ streams.keys()))
        cause = f"the sections do not match the recipe; missing or unexpected: {different:.200}"
        raise CorruptFileError(cause, where="artifact")
    coders = _coders(streams, coder)
    codes: dict[str, EncodedTensor] = {path: {} for path in layout}
    for section, stream in streams.items():
        shapes = [layout[path][name][1] for path, name in stream.arrays]
        if models := _stream_context_models(stream, layout, coders[section], context_models or {}):
            arrays = _decode_in_contexts(sections[section], stream.dtype, shapes, models, coders[section])
        else:
            arrays = _decode(sections[section], stream.dtype, shapes, coders[section])
        for (path, name), array in zip(stream.arrays, arrays, strict=True):
            codes[path][name] = array
    return {path: {name: codes[path][name] for name in names} for path, names in layout.items()}


def arrays_by_section(codes: Mapping[str, EncodedTensor], groups: Mapping[str, str]) -> dict[str, list[Array]]:
    """Section name -> the arrays that `pack_tensors` codes in it, in their order."""
    layout = {path: {name: (a.dtype, a.shape) for name, a in code.items()} for path, code in codes.items()}
    streams = _streams(layout, groups)
    return {section: [codes[path][name] for path, name in stream.arrays] for section, stream in streams.items()}


def pack_blob(name: str, data: bytes, coder: Spec[Coder]) -> Section:
    """Encode bytes that are not a tensor, e.g. a tokenizer, as a section."""
    return _encode(name, [np.frombuffer(data, np.uint8)], coder())


def unpack_blob(section: Section, coder: Spec[Coder]) -> bytes:
    """The inverse of `pack_blob`. The size is not checked here: the reader of the artifact limits it."""
    return _decode(section, np.dtype(np.uint8), [(section.raw_bytes,)], coder())[0].tobytes()


def _streams(layout: Layout, groups: Mapping[str, str]) -> dict[str, _Stream]:
    """Section name -> stream. The name includes the dtype only if several dtypes share group and array name."""
    found: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for path in sorted(layout):
        for name, (dtype, _) in sorted(layout[path].items()):
            found.setdefault((groups[path], name, dtype.name), []).append((path, name))
    dtypes: dict[tuple[str, str], int] = {}
    for group, name, _ in found:
        dtypes[group, name] = dtypes.get((group, name), 0) + 1
    return {
        f"{group}.{name}" if dtypes[group, name] == 1 else f"{group}.{name}.{dtype}": _Stream(
            group, np.dtype(dtype), arrays
        )
        for (group, name, dtype), arrays in found.items()
    }


def _coders(streams: Mapping[str, _Stream], coder: CoderRules) -> dict[str, Coder]:
    rules = (part(Rule, where="*", use=coder),) if isinstance(coder, Spec) else tuple(coder)
    matched = assign_to_rules(rules, {section: stream.group for section, stream in streams.items()}, where="pack")
    coders: dict[str, Coder] = {}
    for i, sections in enumerate(matched):
        built = rules[i]().use()
        if not isinstance(built, Coder):
            raise RecipeError(f"{built!r} is not a coder", where=f"pack.{i}.use")
        coders.update(dict.fromkeys(sections, built))
    return coders


def _stream_context_models(
    stream: _Stream, layout: Layout, coder: Coder, models: ContextModels
) -> list[ContextModel] | None:
    """One context model per matrix of the stream, or None if neither the codecs nor the coder use contexts for it."""
    shapes = [layout[path][name][1] for path, name in stream.arrays]
    constructors = [models.get(path, {}).get(name) for path, name in stream.arrays]
    if not any(constructors) and not (
        coder.variance_contexts and stream.dtype == np.int8 and all(len(shape) == 2 for shape in shapes)
    ):
        return None
    return [make() if make else NoContext(shape[1]) for make, shape in zip(constructors, shapes, strict=True)]


def _context_label(coder: Coder) -> str:
    return f"{coder.name}.contexts"


def _encode(name: str, arrays: list[Array], coder: Coder) -> Section:
    data = coder.encode_arrays(arrays)
    return Section(name, coder.label(data), data, sum(a.nbytes for a in arrays), sum(a.size for a in arrays))


def _decode(section: Section, dtype: np.dtype[Any], shapes: list[tuple[int, ...]], coder: Coder) -> list[Array]:
    with _errors_name_section(section):
        _check(section, dtype, sum(map(math.prod, shapes)), coder.label(section.data))
        return coder.decode_arrays(section.data, dtype, shapes)


def _decode_in_contexts(
    section: Section, dtype: np.dtype[Any], shapes: list[tuple[int, ...]], models: list[ContextModel], coder: Coder
) -> list[Array]:
    """The same as `_decode` for matrices that are coded with contexts."""
    with _errors_name_section(section):
        _check(section, dtype, sum(map(math.prod, shapes)), _context_label(coder))
        return contexts.decode(section.data, [(r, c) for r, c in shapes], models, dtype, coder)


def _check(section: Section, dtype: np.dtype[Any], count: int, label: str) -> None:
    """Raise `CorruptFileError` unless the declared sizes and coder of a section are those that the recipe implies."""
    if (section.elements, section.raw_bytes) != (count, size := count * dtype.itemsize):
        found = f"{section.elements} elements ({section.raw_bytes} bytes)"
        raise CorruptFileError(f"has {found}, the recipe requires {count} ({size} bytes)")
    if section.codec != label:
        raise CorruptFileError(f"is coded with {section.codec!r}, the recipe requires {label!r}")


@contextmanager
def _errors_name_section(section: Section) -> Iterator[None]:
    """Set the location of each `CorruptFileError` raised inside to this section."""
    try:
        yield
    except CorruptFileError as error:
        error.where = f"section {section.name}"
        raise
