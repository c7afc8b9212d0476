"""From codes to sections and back: arrays of one kind are coded together, and the layout alone says what is where.

A code is what a codec makes of one tensor: a few named arrays. The layout (types and shapes of all codes) follows from
the recipe, so no stream carries metadata. Arrays of the same group (a role, say) and the same name are one stream, in
the order of their tensors' paths: more symbols for one table, and no dependence on the order of a dictionary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bitgolf.errors import DamagedError, RecipeError
from bitgolf.pack.artifact import Section
from bitgolf.pack.coders import Coder
from bitgolf.pack.planes import Array
from bitgolf.rules import Rule, cover
from bitgolf.spec import Spec, part

Code = dict[str, Array]
Layout = Mapping[str, Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]]
Coding = Spec[Coder] | Sequence[Spec[Rule]]


class _Stream(NamedTuple):
    group: str
    dtype: np.dtype[Any]
    arrays: list[tuple[str, str]]  # path, name of the array


def pack_codes(codes: Mapping[str, Code], groups: Mapping[str, str], coder: Coding) -> list[Section]:
    """One section for each group and array name, such as `matrix.codes`.

    `groups`: path -> group. `coder`: one for all, or rules whose roles are groups and whose paths are section names.
    """
    layout = {path: {name: (a.dtype, a.shape) for name, a in code.items()} for path, code in codes.items()}
    streams = _streams(layout, groups)
    coders = _coders(streams, coder)
    sections = []
    for section, stream in streams.items():
        symbols = np.concatenate([codes[path][name].reshape(-1) for path, name in stream.arrays])
        sections.append(_encode(section, symbols, coders[section]))
    return sections


def unpack_codes(
    sections: Mapping[str, Section], layout: Layout, groups: Mapping[str, str], coder: Coding
) -> dict[str, Code]:
    """The inverse of `pack_codes`. `sections` holds these streams and nothing else (take blobs out first).

    Raises `DamagedError` where the sections are not those of the layout; sizes are compared before anything is decoded.
    """
    streams = _streams(layout, groups)
    if sections.keys() != streams.keys():
        odd = ", ".join(sorted(sections.keys() ^ streams.keys()))
        raise DamagedError(f"the sections are not those of the recipe ({odd:.200})", place="artifact")
    coders = _coders(streams, coder)
    codes: dict[str, Code] = {path: {} for path in layout}
    for section, stream in streams.items():
        counts = [math.prod(layout[path][name][1]) for path, name in stream.arrays]
        symbols = _decode(sections[section], stream.dtype, sum(counts), coders[section])
        for (path, name), piece in zip(stream.arrays, np.split(symbols, np.cumsum(counts)[:-1]), strict=True):
            codes[path][name] = piece.reshape(layout[path][name][1])
    return {path: {name: codes[path][name] for name in names} for path, names in layout.items()}


def pack_blob(name: str, data: bytes, coder: Spec[Coder]) -> Section:
    """Bytes that are no code (a tokenizer) as a section."""
    return _encode(name, np.frombuffer(data, np.uint8), coder())


def unpack_blob(section: Section, coder: Spec[Coder]) -> bytes:
    """The inverse of `pack_blob`; the reader of the artifact has bounded its size."""
    return _decode(section, np.dtype(np.uint8), section.raw_bytes, coder()).tobytes()


def _streams(layout: Layout, groups: Mapping[str, str]) -> dict[str, _Stream]:
    """Section name -> stream. Only where two types meet under one name is the type a part of the section's name."""
    found: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for path in sorted(layout):
        for name, (dtype, _) in layout[path].items():
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


def _coders(streams: Mapping[str, _Stream], coder: Coding) -> dict[str, Coder]:
    rules = (part(Rule, where="*", use=coder),) if isinstance(coder, Spec) else tuple(coder)
    taken = cover(rules, {section: stream.group for section, stream in streams.items()}, place="pack")
    coders: dict[str, Coder] = {}
    for i, sections in enumerate(taken):
        built = rules[i]().use()
        if not isinstance(built, Coder):
            raise RecipeError(f"{built!r} is not a coder", place=f"pack.{i}.use")
        coders.update(dict.fromkeys(sections, built))
    return coders


def _encode(name: str, symbols: Array, coder: Coder) -> Section:
    data = coder.encode(symbols)
    return Section(name, coder.label(data), data, symbols.nbytes, symbols.size)


def _decode(section: Section, dtype: np.dtype[Any], count: int, coder: Coder) -> Array:
    try:
        if (section.elements, section.raw_bytes) != (count, count * dtype.itemsize):
            raise DamagedError(f"holds {section.elements} elements, the recipe wants {count}")
        if section.codec != coder.label(section.data):
            raise DamagedError(f"is coded with {section.codec!r}, the recipe says {coder.label(section.data)!r}")
        return coder.decode(section.data, dtype, count)
    except DamagedError as error:
        raise DamagedError(error.cause, place=f"section {section.name}") from None
