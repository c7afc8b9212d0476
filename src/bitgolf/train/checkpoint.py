"""Checkpoints: everything a run needs to go on, in one safetensors file that is whole or known to be damaged.

The file's metadata holds the format's number, the step, the caller's values as JSON, and the SHA-256 of all the file's bytes, taken with
zeros in place of the hash itself. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from torch import Tensor

from bitgolf.errors import CorruptFileError, FormatVersionError
from bitgolf.files import atomic_write

FORMAT = 2
_NAME = re.compile(r"step-(\d{8,})\.safetensors")
_ZEROS = b"0" * 64
# A name or value in the header that looks like this has its quotes escaped, so only the key itself matches.
_HASH = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class _Metadata(msgspec.Struct):
    """Values of safetensors' metadata, which are strings. format: None in files from before there was a number."""

    step: str
    meta: str
    format: str | None = None


class _CheckpointHeader(msgspec.Struct):
    metadata: _Metadata = msgspec.field(name="__metadata__")


class Checkpoint(NamedTuple):
    """What `load_latest` found, and a message for each newer file that it had to pass over."""

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    warnings: tuple[str, ...] = ()


def save(
    folder: Path, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None, *, keep: int = 2
) -> Path:
    """Write `step-00000040.safetensors` atomically, and keep the newest `keep` files up to this step.

    Files of later steps are removed too: they belong to a run that was given up, and would be taken for newer.
    Tensors may be of any type, on any device, views, or share memory; `meta` is anything that JSON holds.
    One tensor is written and hashed after the other, without a copy of those that are contiguous on the CPU.
    """
    assert step >= 0 and keep >= 1
    path = folder / f"step-{step:08d}.safetensors"
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))  # so all are aligned
    header = _header(step, ordered, meta or {})
    digest = hashlib.sha256(header)
    with atomic_write(path) as handle:
        handle.write(header)
        for tensor in ordered.values():
            data = _bytes(tensor)
            digest.update(data)
            handle.write(data)
        match = _HASH.search(header)
        assert match, "the header holds zeros in place of the hash"
        handle.seek(match.start(1))
        handle.write(digest.hexdigest().encode())
    files = _newest_first(folder)
    kept = [file for number, file in files if number <= step][:keep]
    for stale in {file for _, file in files}.difference(kept).union(folder.glob(".step-*.part")):
        stale.unlink(missing_ok=True)
    return path


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, its tensors on the CPU; None where there is no checkpoint at all.

    A damaged file is passed over and named in `warnings`; if no file is whole, `CorruptFileError` names them all.
    Raises `FormatVersionError` for a whole file of another format.
    """
    damaged: list[str] = []
    for _, file in _newest_first(folder):
        try:
            return load(file)._replace(warnings=tuple(damaged))
        except FormatVersionError:
            raise
        except CorruptFileError as error:
            damaged.append(str(error))
    if damaged:
        cause = f"no checkpoint is whole ({'; '.join(damaged)})"
        raise CorruptFileError(cause, where=str(folder), hint="remove the folder to start the run again")
    return None


def load(path: Path) -> Checkpoint:
    """The checkpoint in one file. Raises `CorruptFileError`, or `FormatVersionError` for a file of another format."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptFileError(f"cannot be read ({error.strerror})", where=str(path)) from error
    try:
        metadata = _checked_metadata(data)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise CorruptFileError(f"damaged checkpoint ({error})", where=str(path)) from error
    if metadata.format != str(FORMAT):
        raise FormatVersionError("the checkpoint", found=metadata.format, supported=FORMAT, where=str(path))
    try:
        return Checkpoint(int(metadata.step), parse(data), json.loads(metadata.meta))
    except (ValueError, KeyError, RecursionError, SafetensorError) as error:
        raise CorruptFileError(f"damaged checkpoint ({error})", where=str(path)) from error


def _newest_first(folder: Path) -> list[tuple[int, Path]]:
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(((int(match[1]), file) for file in files if (match := _NAME.fullmatch(file.name))), reverse=True)


def _header(step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    """The length and the JSON header of a safetensors file of these tensors in their order, zeros in place of the hash."""
    metadata = {"format": str(FORMAT), "step": str(step), "meta": json.dumps(meta), "sha256": _ZEROS.decode()}
    table: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, t in tensors.items():
        start, end = end, end + t.numel() * t.element_size()
        table[name] = {"dtype": _TYPES[t.dtype], "shape": list(t.shape), "data_offsets": [start, end]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor's elements in row-major order: a view where it is contiguous on the CPU."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def _checked_metadata(data: bytes) -> _Metadata:
    """The metadata of a file whose bytes match their hash. Raises `ValueError` or msgspec's errors for any other."""
    start = 8 + int.from_bytes(data[:8], "little")
    match = _HASH.search(data, 8, min(start, len(data)))
    if not match:
        raise ValueError("it has no hash")
    digest, view = hashlib.sha256(), memoryview(data)
    for piece in (view[: match.start(1)], _ZEROS, view[match.end(1) :]):
        digest.update(piece)
    if digest.hexdigest().encode() != match[1]:
        raise ValueError("its bytes do not match their hash")
    return msgspec.json.decode(data[8:start], type=_CheckpointHeader).metadata
