"""Checkpoint files: the state of a run in one safetensors file with a checksum.

The metadata holds the format number, the step, a JSON object of the caller, and the SHA-256 of the whole file, computed
with zeros in place of the hash. Nothing is pickled.
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
# JSON escapes quotes inside names and values, so only the key itself can match.
_HASH = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class _Metadata(msgspec.Struct):
    """The metadata of the file; safetensors allows only strings. format: None in files older than format numbers."""

    step: str
    meta: str
    format: str | None = None


class _CheckpointHeader(msgspec.Struct):
    metadata: _Metadata = msgspec.field(name="__metadata__")


class Checkpoint(NamedTuple):
    """The contents of a checkpoint file.

    meta: the JSON object of the caller.  warnings: a message for each newer file that `load_latest` found damaged.
    """

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    warnings: tuple[str, ...] = ()


def save(
    folder: Path, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None, *, keep: int = 2
) -> Path:
    """Write a checkpoint such as `step-00000040.safetensors` atomically; returns its path.

    Deletes all but the newest `keep` files up to this step. Files of later steps belong to an abandoned run and are
    deleted as well, since `load_latest` would prefer them.
    tensors: of any dtype and device; views and shared memory are allowed.  meta: a JSON object.
    Tensors are written and hashed one by one; those that are contiguous on the CPU are not copied.
    """
    assert step >= 0 and keep >= 1
    path = folder / f"step-{step:08d}.safetensors"
    ordered = dict(
        sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    )  # keeps all tensors aligned
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
    """The newest undamaged checkpoint in `folder`, with tensors on the CPU; None if there is no checkpoint file.

    Damaged files are skipped and listed in `warnings`. Raises `CorruptFileError` if all files are damaged, and
    `FormatVersionError` for an undamaged file of another format.
    """
    damaged: list[str] = []
    for file in checkpoint_files(folder):
        try:
            return load(file)._replace(warnings=tuple(damaged))
        except FormatVersionError:
            raise
        except CorruptFileError as error:
            damaged.append(str(error))
    if damaged:
        message = f"all checkpoints are damaged ({'; '.join(damaged)})"
        raise CorruptFileError(message, where=str(folder), hint="delete the folder to train from the start")
    return None


def newest_file(folder: Path) -> Path | None:
    """The checkpoint file of the last step in `folder`, undamaged or not; None if there is none."""
    return next(iter(checkpoint_files(folder)), None)


def checkpoint_files(folder: Path) -> list[Path]:
    """The checkpoint files in `folder`, the newest first."""
    return [file for _, file in _newest_first(folder)]


def load(path: Path) -> Checkpoint:
    """The checkpoint in one file.

    Raises `CorruptFileError` if it is missing or damaged, `FormatVersionError` if it has another format.
    """
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
    """Length field and JSON header of a safetensors file with these tensors in this order, and zeros as the hash."""
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
    """The elements of a tensor in row-major order, as bytes. Not copied if the tensor is contiguous on the CPU."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def _checked_metadata(data: bytes) -> _Metadata:
    """The metadata of a file with a valid hash. Raises `ValueError` or `msgspec.MsgspecError` if it is damaged."""
    start = 8 + int.from_bytes(data[:8], "little")
    match = _HASH.search(data, 8, min(start, len(data)))
    if not match:
        raise ValueError("no hash in its header")
    digest, view = hashlib.sha256(), memoryview(data)
    for piece in (view[: match.start(1)], _ZEROS, view[match.end(1) :]):
        digest.update(piece)
    if digest.hexdigest().encode() != match[1]:
        raise ValueError("its contents do not match its hash")
    return msgspec.json.decode(data[8:start], type=_CheckpointHeader).metadata
