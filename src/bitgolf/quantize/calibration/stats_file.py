"""The file of calibration statistics in a run folder, `calibration.safetensors`.

Tensors: `hessian:PATH`, once for all matrices that share it, and `output_fisher:PATH` for each matrix; `row_hessians:PATH`
and `output_hessian:PATH` where calibration measured them. The metadata has one key, `calibration`, whose value is JSON: the format number, free metadata of the writer, and for each matrix the
path in the name of its Hessian and its number of tokens (`StatsHeader`).
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
"""The format number of the file (docs/architecture.md, section 3)."""
FURTHER = ("row_hessians", "output_hessian")
"""Names of the statistics that not every calibration measures."""
AGAIN = "delete the file and run again with --from calibrate"


class StatsHeader(msgspec.Struct, forbid_unknown_fields=True):
    """matrices: path -> (path in the name of its Hessian, number of tokens).  metadata: any JSON object."""

    format: int
    metadata: dict[str, Any]
    matrices: dict[str, tuple[str, int]]


class _Format(msgspec.Struct):
    format: int | None = None


def save_calibration(path: Path, stats: StatsByPath, about: Mapping[str, Any] | None = None) -> None:
    """Write all statistics to one .safetensors file, atomically. A Hessian that matrices share is stored once.

    about: a JSON object that is stored as well, and returned by `calibration_metadata`.
    """
    owners: dict[int, str] = {}
    owned = {name: owners.setdefault(id(stats[name].hessian), name) for name in sorted(stats)}
    hessians = {f"hessian:{name}": stats[name].hessian.contiguous() for name in owners.values()}
    outputs = {f"output_fisher:{name}": stats[name].output_fisher.contiguous() for name in owned}
    further = {
        f"{kind}:{name}": stats[name].tensors()[kind].contiguous()
        for kind in FURTHER
        for name in owned
        if kind in stats[name].tensors()
    }
    table = {name: (owner, stats[name].tokens) for name, owner in owned.items()}
    header = msgspec.json.encode(StatsHeader(STATS_FORMAT, dict(about or {}), table))
    # One metadata key, since safetensors writes several in random order, which would change the bytes of the file.
    write_bytes(path, save({**hessians, **outputs, **further}, {"calibration": header.decode()}))


def calibration_metadata(path: Path) -> dict[str, Any]:
    """The JSON object saved with the statistics; empty if there is no file. Raises the errors of `load_calibration`."""
    if not path.exists():
        return {}
    with _opened(path) as file:
        return _header(path, file).metadata


def load_calibration(path: Path) -> dict[str, MatrixStats]:
    """Path -> statistics. Matrices that shared a Hessian share one tensor again.

    Raises `CorruptFileError` if the file is missing or damaged, `FormatVersionError` if it has another format.
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
        raise CorruptFileError(
            f"cannot be read ({error})", where=str(path), hint="run again with --from calibrate"
        ) from error
    except SafetensorError as error:
        raise CorruptFileError(f"not a valid calibration file ({error})", where=str(path), hint=AGAIN) from error
    with file as opened:
        yield opened


def _header(path: Path, file: Any) -> StatsHeader:
    text = (file.metadata() or {}).get("calibration")
    if text is None:
        raise CorruptFileError("not a valid calibration file (no metadata)", where=str(path), hint=AGAIN)
    try:
        found = msgspec.json.decode(text, type=_Format).format
        if found != STATS_FORMAT:
            raise FormatVersionError("the calibration", found=found, supported=STATS_FORMAT, where=str(path))
        return msgspec.json.decode(text, type=StatsHeader)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CorruptFileError(f"not a valid calibration file ({error})", where=str(path), hint=AGAIN) from error


def _tensors(path: Path, file: Any) -> dict[str, Tensor]:
    try:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, RuntimeError, AttributeError, KeyError, TypeError, ValueError) as error:
        # safetensors and torch raise these for invalid types and sizes in a damaged header
        raise CorruptFileError(f"not a valid calibration file ({error})", where=str(path), hint=AGAIN) from error


def _stats(path: Path, tensors: Mapping[str, Tensor], name: str, owner: str, tokens: int) -> MatrixStats:
    """The statistics of one matrix. Raises `CorruptFileError` for invalid tensors."""

    def invalid(reason: str) -> CorruptFileError:
        return CorruptFileError(f"not a valid calibration file ({name}: {reason})", where=str(path), hint=AGAIN)

    hessian, outputs = tensors.get(f"hessian:{owner}"), tensors.get(f"output_fisher:{name}")
    if hessian is None or outputs is None:
        raise invalid("statistics are missing")
    square = hessian.ndim == 2 and hessian.shape[0] == hessian.shape[1] and outputs.ndim == 1
    if not square or not hessian.dtype == outputs.dtype == torch.float32 or tokens < 1:
        raise invalid(
            f"Hessian {hessian.dtype} {list(hessian.shape)}, output_fisher {outputs.dtype} {list(outputs.shape)}, "
            f"{tokens} tokens; expected float32 [C, C], float32 [R], at least 1 token"
        )
    stats = MatrixStats(hessian, outputs, tokens)
    stats = stats._replace(**{kind: tensors[f"{kind}:{name}"] for kind in FURTHER if f"{kind}:{name}" in tensors})
    columns, rows, found = len(hessian), len(outputs), stats.tensors()
    groups = found.get("row_hessians", hessian[None])
    wrong = groups.ndim != 3 or groups.shape[1:] != (columns, columns) or not 1 <= len(groups) <= rows
    wrong = wrong or found.get("output_hessian", torch.empty(rows, rows)).shape != (rows, rows)
    if wrong or any(tensor.dtype != torch.float32 for tensor in found.values()):
        shapes = ", ".join(f"{kind} {tensor.dtype} {list(tensor.shape)}" for kind, tensor in found.items())
        raise invalid(f"{shapes}; expected float32 [C, C], [R], [G, C, C] and [R, R]")
    if not all(tensor.isfinite().all() for tensor in found.values()):
        raise invalid("statistics are not finite")
    return stats
