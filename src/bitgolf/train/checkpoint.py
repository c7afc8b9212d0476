"""Checkpoints: everything a run needs to go on, in one safetensors file that is whole or known to be damaged.

The file's metadata holds the step, the caller's values as JSON, and the SHA-256 of all the file's bytes, taken with
zeros in place of the hash itself. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as serialize
from torch import Tensor

from bitgolf.errors import DamagedError
from bitgolf.files import write_bytes

_NAME = re.compile(r"step-(\d{8,})\.safetensors")
_ZEROS = b"0" * 64
# A name or value in the header that looks like this has its quotes escaped, so only the key itself matches.
_HASH = re.compile(rb'"sha256":"([0-9a-f]{64})"')


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
    """
    assert step >= 0 and keep >= 1
    path = folder / f"step-{step:08d}.safetensors"
    write_bytes(path, _encode(step, tensors, meta or {}))
    files = _newest_first(folder)
    kept = [file for number, file in files if number <= step][:keep]
    for stale in {file for _, file in files}.difference(kept).union(folder.glob(".step-*.part")):
        stale.unlink(missing_ok=True)
    return path


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, its tensors on the CPU; None where there is no checkpoint at all.

    A damaged file is passed over and named in `warnings`; if no file is whole, `DamagedError` names them all.
    """
    damaged: list[str] = []
    for _, file in _newest_first(folder):
        try:
            return load(file)._replace(warnings=tuple(damaged))
        except DamagedError as error:
            damaged.append(str(error))
    if damaged:
        cause = f"no checkpoint is whole ({'; '.join(damaged)})"
        raise DamagedError(cause, place=str(folder), mend="remove the folder to start the run again")
    return None


def load(path: Path) -> Checkpoint:
    """The checkpoint in one file, or a `DamagedError` that names it."""
    try:
        return _decode(path.read_bytes())
    except OSError as error:
        raise DamagedError(f"cannot be read ({error.strerror})", place=str(path)) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise DamagedError(f"damaged checkpoint ({error})", place=str(path)) from None


def _newest_first(folder: Path) -> list[tuple[int, Path]]:
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(((int(match[1]), file) for file in files if (match := _NAME.fullmatch(file.name))), reverse=True)


def _encode(step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    plain = {name: t.detach().contiguous().cpu().clone() for name, t in tensors.items()}  # safetensors refuses sharing
    metadata = {"step": str(step), "meta": json.dumps(meta), "sha256": _ZEROS.decode()}
    data = serialize(plain, metadata)
    match = _HASH.search(data)
    assert match, "safetensors writes metadata as compact JSON"
    return data[: match.start(1)] + hashlib.sha256(data).hexdigest().encode() + data[match.end(1) :]


def _decode(data: bytes) -> Checkpoint:
    start = 8 + int.from_bytes(data[:8], "little")
    match = _HASH.search(data, 8, min(start, len(data)))
    if not match:
        raise ValueError("it has no hash")
    if hashlib.sha256(data[: match.start(1)] + _ZEROS + data[match.end(1) :]).hexdigest().encode() != match[1]:
        raise ValueError("its bytes do not match their hash")
    metadata = json.loads(data[8:start])["__metadata__"]
    return Checkpoint(int(metadata["step"]), parse(data), json.loads(metadata["meta"]))
