"""From codes to sections and back: arrays of one kind are coded together, and the layout alone says what is where.

A code is what a codec makes of one tensor: a few named arrays. The layout (types and shapes of all codes) follows from
the recipe, so no stream carries metadata. Arrays of the same group (a role, say) and the same name are one stream, in
the order of their tensors' paths: more symbols for one table, and no dependence on the order of a dictionary.
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
Layout = Mapping[str, Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]]
ContextModels = Mapping[str, Mapping[str, Callable[[], ContextModel]]]
"""path -> name of array -> a fresh walk over its rows, for the arrays that are coded in contexts."""

CoderRules = Spec[Coder] | Sequence[Spec[Rule[Coder]]]


@dataclass(frozen=True)
class Section:
    """One coded stream. `raw_bytes` and `elements` are those of the array that it decodes to."""

    name: str
    codec: str
    data: bytes
    raw_bytes: int
    elements: int


class _Stream(NamedTuple):
    group: str
    dtype: np.dtype[Any]
    arrays: list[tuple[str, str]]  # path, name of the array


def pack_tensors(
    codes: Mapping[str, EncodedTensor], groups: Mapping[str, str], coder: CoderRules, walks: ContextModels | None = None
) -> list[Section]:
    """One section for each group and array name, such as `matrix.codes`.

    `groups`: path -> group. `coder`: one for all, or rules whose roles are groups and whose paths are section names.
    `walks`: what codecs know of their arrays' symbols.
    """
    layout = {path: {name: (a.dtype, a.shape) for name, a in code.items()} for path, code in codes.items()}
    streams = _streams(layout, groups)
    coders = _coders(streams, coder)

    def section(name: str) -> Section:
        arrays = [codes[path][array] for path, array in streams[name].arrays]
        if known := _stream_context_models(streams[name], layout, coders[name], walks or {}):
            data = contexts.encode(arrays, known, coders[name])
            counted = sum(a.nbytes for a in arrays), sum(a.size for a in arrays)
            return Section(name, _context_label(coders[name]), data, *counted)
        return _encode(name, arrays, coders[name])

    return parallel_map(section, streams)


def unpack_tensors(
    sections: Mapping[str, Section],
    layout: Layout,
    groups: Mapping[str, str],
    coder: CoderRules,
    walks: ContextModels | None = None,
) -> dict[str, EncodedTensor]:
    """The inverse of `pack_tensors`. `sections` holds these streams and nothing else (take blobs out first).

    Raises `CorruptFileError` where the sections are not those of the layout; sizes are compared before anything is decoded.
    """
    streams = _streams(layout, groups)
    if sections.keys() != streams.keys():
        odd = ", ".join(sorted(sections.keys() ^ streams.keys()))
        raise CorruptFileError(f"the sections are not those of the recipe ({odd:.200})", where="artifact")
    coders = _coders(streams, coder)
    codes: dict[str, EncodedTensor] = {path: {} for path in layout}
    for section, stream in streams.items():
        shapes = [layout[path][name][1] for path, name in stream.arrays]
        if known := _stream_context_models(stream, layout, coders[section], walks or {}):
            arrays = _decode_in_contexts(sections[section], stream.dtype, shapes, known, coders[section])
        else:
            arrays = _decode(sections[section], stream.dtype, shapes, coders[section])
        for (path, name), array in zip(stream.arrays, arrays, strict=True):
            codes[path][name] = array
    return {path: {name: codes[path][name] for name in names} for path, names in layout.items()}


def arrays_by_section(codes: Mapping[str, EncodedTensor], groups: Mapping[str, str]) -> dict[str, list[Array]]:
    """Section name -> the arrays that are coded in it, as `pack_tensors` sorts them."""
    layout = {path: {name: (a.dtype, a.shape) for name, a in code.items()} for path, code in codes.items()}
    streams = _streams(layout, groups)
    return {section: [codes[path][name] for path, name in stream.arrays] for section, stream in streams.items()}


def pack_blob(name: str, data: bytes, coder: Spec[Coder]) -> Section:
    """Bytes that are no code (a tokenizer) as a section."""
    return _encode(name, [np.frombuffer(data, np.uint8)], coder())


def unpack_blob(section: Section, coder: Spec[Coder]) -> bytes:
    """The inverse of `pack_blob`; the reader of the artifact has bounded its size."""
    return _decode(section, np.dtype(np.uint8), [(section.raw_bytes,)], coder())[0].tobytes()


def _streams(layout: Layout, groups: Mapping[str, str]) -> dict[str, _Stream]:
    """Section name -> stream. Only where two types meet under one name is the type a part of the section's name."""
    found: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for path in sorted(layout):
        for name, (dtype, _) in sorted(layout[path].items()):
            found.setdefault((groups[path], name, dtype.name), []).append((path, name))
    types: dict[tuple[str, str], int] = {}
    for group, name, _ in found:
        types[group, name] = types.get((group, name), 0) + 1
    return {
        f"{group}.{name}" if types[group, name] == 1 else f"{group}.{name}.{dtype}": _Stream(
            group, np.dtype(dtype), arrays
        )
        for (group, name, dtype), arrays in found.items()
    }


def _coders(streams: Mapping[str, _Stream], coder: CoderRules) -> dict[str, Coder]:
    rules = (part(Rule, where="*", use=coder),) if isinstance(coder, Spec) else tuple(coder)
    taken = assign_to_rules(rules, {section: stream.group for section, stream in streams.items()}, where="pack")
    coders: dict[str, Coder] = {}
    for i, sections in enumerate(taken):
        built = rules[i]().use()
        if not isinstance(built, Coder):
            raise RecipeError(f"{built!r} is not a coder", where=f"pack.{i}.use")
        coders.update(dict.fromkeys(sections, built))
    return coders


def _stream_context_models(
    stream: _Stream, layout: Layout, coder: Coder, walks: ContextModels
) -> list[ContextModel] | None:
    """A walk over each matrix of the stream; None where neither a codec nor the coder knows anything of their symbols."""
    shapes = [layout[path][name][1] for path, name in stream.arrays]
    walked = [walks.get(path, {}).get(name) for path, name in stream.arrays]
    if not any(walked) and not (
        coder.variance_contexts and stream.dtype == np.int8 and all(len(shape) == 2 for shape in shapes)
    ):
        return None
    return [begin() if begin else NoContext(shape[1]) for begin, shape in zip(walked, shapes, strict=True)]


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
    section: Section, dtype: np.dtype[Any], shapes: list[tuple[int, ...]], walks: list[ContextModel], coder: Coder
) -> list[Array]:
    """The same for matrices whose symbols are in contexts."""
    with _errors_name_section(section):
        _check(section, dtype, sum(map(math.prod, shapes)), _context_label(coder))
        return contexts.decode(section.data, [(r, c) for r, c in shapes], walks, dtype, coder)


def _check(section: Section, dtype: np.dtype[Any], count: int, label: str) -> None:
    if (section.elements, section.raw_bytes) != (count, count * dtype.itemsize):
        raise CorruptFileError(f"holds {section.elements} elements, the recipe wants {count}")
    if section.codec != label:
        raise CorruptFileError(f"is coded with {section.codec!r}, the recipe says {label!r}")


@contextmanager
def _errors_name_section(section: Section) -> Iterator[None]:
    """Damage that is found inside names the section."""
    try:
        yield
    except CorruptFileError as error:
        error.where = f"section {section.name}"
        raise
