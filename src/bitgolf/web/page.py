"""A page that runs a model: one HTML file with its program, constants and tokenizer, which asks for nothing else."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitgolf.report.web_page import Tile, escape, section, tiles, web_page
from bitgolf.web.program import StepProgram, StoredArray

PAGE_SIZE = "SIZE-OF-THIS-PAGE"
"""Stands for the size of the page until it is known."""


class PageFacts(NamedTuple):
    """What a page says about its model. artifact_bytes: size of the artifact that it was made from."""

    name: str
    parameters: int
    artifact_bytes: int


def model_page(facts: PageFacts, program: StepProgram, tokenizer: dict[str, Any], kernels: bytes | None) -> bytes:
    """The page as UTF-8. kernels: a WebAssembly module for products; None for products in JavaScript."""
    script, constants = model_script(program, tokenizer, kernels)
    page = web_page(
        f"{facts.name or 'model'}: bitgolf",
        _body(facts, constants),
        script=script + _source("page.js"),
        style=_source("page.css"),
    )
    return _with_own_size(page.encode())


def model_script(program: StepProgram, tokenizer: dict[str, Any], kernels: bytes | None) -> tuple[str, str]:
    """The JavaScript of a model without the form around it, and the constants that its `loadConstants` takes, base64."""
    arrays, constants = packed_arrays(program.arrays)
    model = {
        "memoryPages": program.memory_pages,
        "matrices": program.matrices,
        "places": program.places,
        "resets": program.resets,
        "arrays": arrays,
        "kernels": kernels and _base64(kernels),
    }
    parts = ['"use strict";', f"const model = {_json(model)};", program.source, _source("runtime.js")]
    return "\n".join([*parts, tokenizer_script(tokenizer), _source("model.js")]), _base64(constants)


def tokenizer_script(tokenizer: dict[str, Any]) -> str:
    """The JavaScript of a tokenizer."""
    return f"const tokenizer = {_json(tokenizer)};\n{_source('tokenizer.js')}"


def _source(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def packed_arrays(arrays: Iterable[StoredArray]) -> tuple[list[list[Any]], bytes]:
    """What `loadConstants` of `model.js` reads: a list for each array, and all of them as one zlib stream.

    A list has the address, type and count of an array and the type in which it is stored: `f16` for floats that float16
    represents exactly, `trellis` for indices, with the number of columns and what determines the states.
    """
    described, planes = list[list[Any]](), list[bytes]()
    for array in arrays:
        values = array.values.reshape(-1).astype(
            {"f64": np.float64, "u8": np.uint8}.get(array.type, array.values.dtype)
        )
        row = [array.at, array.type, values.size]
        if array.trellis:
            indices, order, h0, h1 = array.trellis
            described.append([*row, "trellis", indices.shape[1], h0, h1])
            planes += [_planes(order.astype(np.uint16)), indices.tobytes()]
        elif array.type == "f32" and _is_half(values):
            described.append([*row, "f16"])
            planes.append(_planes(values.astype(np.float16)))
        else:
            described.append([*row, array.type])
            planes.append(_planes(values))
    return described, zlib.compress(b"".join(planes), 9)


def _planes(values: npt.NDArray[Any]) -> bytes:
    """The first bytes of all numbers, then the second ones, …: they compress better than one number after the other."""
    return values.view(np.uint8).reshape(values.size, -1).T.tobytes()


def _is_half(values: npt.NDArray[Any]) -> bool:
    with np.errstate(over="ignore"):
        return bool((values.astype(np.float16).astype(np.float32) == values).all())


def _json(value: Any) -> str:
    """JSON for a script: `<` is escaped, so that no text in it ends the script."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _with_own_size(page: bytes) -> bytes:
    """The page with its size in bytes, which depends on the number of digits of that size."""
    rest, size = len(page) - len(PAGE_SIZE), 0
    while size != rest + len(f"{size:,}"):
        size = rest + len(f"{size:,}")
    return page.replace(PAGE_SIZE.encode(), f"{size:,}".encode(), 1)


def _body(facts: PageFacts, constants: str) -> str:
    shown = tiles(
        [
            Tile("Speed", "–", "tokens per second"),
            Tile("Parameters", f"{facts.parameters:,}", ""),
            Tile("Artifact", f"{facts.artifact_bytes:,}", "bytes"),
            Tile("Page", PAGE_SIZE, "bytes, everything included"),
        ]
    ).replace("<p class=value>–</p>", "<p class=value id=speed>–</p>", 1)
    return f"""<h1>{escape(facts.name or "model")}</h1>
<p class=subtitle>A language model that runs in this page. The page asks for nothing else and sends nothing.</p>
{shown}<form id=form>
<label>Prompt<textarea id=prompt rows=4 autocomplete=off></textarea></label>
<div class=fields>
<label>Temperature<input id=temperature type=number min=0 max=100 step=any value=0.8 required></label>
<label>Top k (0: all)<input id=top type=number min=0 step=1 value=0 required></label>
<label>Tokens<input id=length type=number min=1 max=100000 step=1 value=200 required></label>
</div>
<div class=buttons>
<button id=start type=submit disabled>Generate</button>
<button id=stop type=button disabled>Stop</button>
<span id=status role=status>Loading the model.</span>
</div>
</form>
{section("Text", "<output id=text for=prompt aria-live=off></output>")}
<noscript><p>This page needs JavaScript, which runs the model.</p></noscript>
<script type="application/octet-stream" id=constants>{constants}</script>
"""
