"""The file of calibration statistics in a run folder, `calibration.safetensors`.

Tensors `hessian:PATH`, one for all matrices that share it, and `output_fisher:PATH`. The metadata has one key,
`calibration`, with JSON: the format number, what the writer wants to remember (`metadata`), and for each matrix the path
under which its Hessian stands and its number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bitgolf.errors import CorruptFileError, FormatVersionError
from bitgolf.files import write_bytes
from bitgolf.quantize.stats import MatrixStats, StatsByPath

STATS_FORMAT = 2
"""The format number of the file (docs/design.md, section 3)."""
AGAIN = "delete it; `--from calibrate` makes it again"


class StatsHeader(msgspec.Struct, forbid_unknown_fields=True):
    """matrices: path -> (path under which the Hessian stands, number of tokens)."""

    format: int
    metadata: dict[str, Any]
    matrices: dict[str, tuple[str, int]]


class _Format(msgspec.Struct):
    format: int | None = None


def save_calibration(path: Path, stats: StatsByPath, about: Mapping[str, Any] | None = None) -> None:
    """All statistics in one .safetensors file, whole or not at all. A Hessian that matrices share is stored once.

    `about` is anything that JSON holds: see `calibration_metadata`.
    """
    owners: dict[int, str] = {}
    owned = {name: owners.setdefault(id(stats[name].hessian), name) for name in sorted(stats)}
    hessians = {f"hessian:{name}": stats[name].hessian.contiguous() for name in owners.values()}
    outputs = {f"output_fisher:{name}": stats[name].output_fisher.contiguous() for name in owned}
    table = {name: (owner, stats[name].tokens) for name, owner in owned.items()}
    header = msgspec.json.encode(StatsHeader(STATS_FORMAT, dict(about or {}), table))
    # In one value, as safetensors leaves the order of several to chance.
    write_bytes(path, save({**hessians, **outputs}, {"calibration": header.decode()}))


def calibration_metadata(path: Path) -> dict[str, Any]:
    """What was saved beside the statistics; nothing where there is no file. Raises `CorruptFileError` as `load_calibration`."""
    if not path.exists():
        return {}
    with _opened(path) as file:
        return _header(path, file).metadata


def load_calibration(path: Path) -> dict[str, MatrixStats]:
    """The inverse of `save_calibration`, sharing included.

    Raises `CorruptFileError` for a missing or damaged file, `FormatVersionError` for one of another format.
    """
    with _opened(path) as file:
        header = _header(path, file)
        tensors = _tensors(path, file)
    return {name: _stats(path, tensors, name, *header.matrices[name]) for name in header.matrices}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        file = safe_open(path, "pt")
    except OSError as error:
        raise CorruptFileError("cannot be read", where=str(path), hint="--from calibrate") from error
    except SafetensorError as error:
        raise CorruptFileError(f"not a calibration ({error})", where=str(path), hint=AGAIN) from error
    with file as opened:
        yield opened


def _header(path: Path, file: Any) -> StatsHeader:
    text = (file.metadata() or {}).get("calibration")
    if text is None:
        raise CorruptFileError("not a calibration (it has no metadata)", where=str(path), hint=AGAIN)
    try:
        found = msgspec.json.decode(text, type=_Format).format
        if found != STATS_FORMAT:
            raise FormatVersionError("the calibration", found=found, supported=STATS_FORMAT, where=str(path))
        return msgspec.json.decode(text, type=StatsHeader)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CorruptFileError(f"not a calibration ({error})", where=str(path), hint=AGAIN) from error


def _tensors(path: Path, file: Any) -> dict[str, Tensor]:
    try:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, RuntimeError, AttributeError, KeyError, TypeError, ValueError) as error:
        # What safetensors and torch raise for types and sizes that a damaged header says.
        raise CorruptFileError(f"not a calibration ({error})", where=str(path), hint=AGAIN) from error


def _stats(path: Path, tensors: Mapping[str, Tensor], name: str, owner: str, tokens: int) -> MatrixStats:
    hessian, outputs = tensors.get(f"hessian:{owner}"), tensors.get(f"output_fisher:{name}")
    if hessian is None or outputs is None:
        raise CorruptFileError(f"not a calibration (the statistics of {name} are missing)", where=str(path), hint=AGAIN)
    square = hessian.ndim == 2 and hessian.shape[0] == hessian.shape[1] and outputs.ndim == 1
    if not square or not hessian.dtype == outputs.dtype == torch.float32 or tokens < 1:
        raise CorruptFileError(
            f"not a calibration (what is said of {name} is no statistics)", where=str(path), hint=AGAIN
        )
    if not (hessian.isfinite().all() and outputs.isfinite().all()):
        raise CorruptFileError(f"not a calibration (a number of {name} is not finite)", where=str(path), hint=AGAIN)
    return MatrixStats(hessian, outputs, tokens)
