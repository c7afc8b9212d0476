"""The codes of a whole model: encoded, laid out and decoded by rules, saved in the run folder, reported by tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.numpy
from torch import Tensor

from bitgolf.config.rules import Rule, assign_to_rules
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, CorruptFileError, RecipeError, error_location
from bitgolf.files import write_bytes
from bitgolf.pack.byte_planes import entropy_bits
from bitgolf.pack.streams import ContextModels, EncodedTensor, Layout
from bitgolf.quantize.codecs.codec import Codec, Shape
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.stats import StatsByPath

Roles = Mapping[str, str]
Rules = Sequence[Spec[Rule[Codec]]]


class TensorReport(NamedTuple):
    """What quantization did to one tensor. Errors are absolute; `bits_per_weight` is order-0, scales included."""

    path: str
    role: str
    codec: str
    elements: int
    max_error: float
    rms_error: float
    bits_per_weight: float


def codecs_by_path(roles: Roles, rules: Rules) -> dict[str, Codec]:
    """path -> its codec, in the order of `roles`. Raises `RecipeError` where the rules do not cover exactly."""
    codecs: dict[str, Codec] = {}
    for i, paths in enumerate(assign_to_rules(rules, roles, where="quantize")):
        codec = rules[i]().use()
        if not isinstance(codec, Codec):
            raise RecipeError(f"{type(codec).__name__} is not a codec", where=f"quantize.{i}.use")
        codecs.update(dict.fromkeys(paths, codec))
    return {path: codecs[path] for path in roles}


def encode_model(
    state: Mapping[str, Tensor],
    roles: Roles,
    rules: Rules,
    stats: StatsByPath | None = None,
    session: EncodingSession | None = None,
    *,
    log: Callable[[str], None] = lambda remark: None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, EncodedTensor]:
    """path -> code of every tensor. An error names its tensor. `stats`: what calibration knows.

    Codecs work on the session's device; the codes are on the CPU. On another device a few indices may differ, as sums are
    rounded otherwise; on one machine they are the same every time.
    session: the caller's, if it encodes more than once; it then also places `stats` once (`EncodingSession.to_device`).
    `log` hears where work is done and what codecs chose, `progress` (done, of) weights.
    Raises `BitgolfError` where a codec asks for statistics of a tensor that has none.
    """
    _same_paths(state, roles)
    session, codes, done = session or EncodingSession(), dict[str, EncodedTensor](), 0
    log(session.description)
    known = session.to_device(stats or {})
    codecs, of = codecs_by_path(roles, rules), sum(w.numel() for w in state.values())
    for codec in dict.fromkeys(codecs.values()):
        weights = {path: state[path].to(session.device) for path, own in codecs.items() if own is codec}
        if codec.needs_calibration and stats is not None:
            _require_stats(weights, known)
        encoding = codec.fit_encode(weights, known, session)
        if encoding.summary:
            log(encoding.summary)
        for path, code in encoding.codes:
            codes[path] = code
            done += state[path].numel()
            progress(done, of)
    return {path: codes[path] for path in codecs}


def context_models(shapes: Mapping[str, Shape], roles: Roles, rules: Rules) -> ContextModels:
    """path -> name of array -> a fresh walk over it, for the arrays that are coded in contexts."""
    return {
        path: {name: partial(codec.context_model, name, shapes[path]) for name in codec.context_coded}
        for path, codec in codecs_by_path(roles, rules).items()
        if codec.context_coded
    }


def layout(shapes: Mapping[str, Shape], roles: Roles, rules: Rules) -> Layout:
    """path -> name of array -> (type, shape): all that unpacking needs to know, and no file has to say."""
    _same_paths(shapes, roles)
    return {path: codec.array_specs(shapes[path]) for path, codec in codecs_by_path(roles, rules).items()}


def decode_model(
    codes: Mapping[str, EncodedTensor], shapes: Mapping[str, Shape], roles: Roles, rules: Rules
) -> dict[str, Tensor]:
    """path -> float32 tensor. Raises `CorruptFileError`, naming the tensor, where a code does not fit its shape."""
    _same_paths(shapes, roles)
    if codes.keys() != roles.keys():
        raise CorruptFileError(f"the codes are not those of this model ({_symmetric_difference(codes, roles)})")
    decoded: dict[str, Tensor] = {}
    for path, codec in codecs_by_path(roles, rules).items():
        with error_location(path):
            decoded[path] = codec.decode(codes[path], shapes[path])
    return decoded


def tensor_reports(
    state: Mapping[str, Tensor], codes: Mapping[str, EncodedTensor], roles: Roles, rules: Rules
) -> list[TensorReport]:
    """One row for each tensor, measured on what its code decodes to."""
    shapes = {path: tuple(w.shape) for path, w in state.items()}
    decoded = decode_model(codes, shapes, roles, rules)
    codecs = codecs_by_path(roles, rules)
    rows = []
    for path, w in decoded.items():
        error = (w - state[path].detach().cpu().float()).double().abs()
        bits = sum(entropy_bits(array) for array in codes[path].values())
        largest, rms = error.max().item(), error.square().mean().sqrt().item()
        kind = type(codecs[path]).__name__
        rows.append(TensorReport(path, roles[path], kind, w.numel(), largest, rms, bits / w.numel()))
    return rows


# ---- in the run folder ---------------------------------------------------------------------------------------------


def save_encoded(path: Path, codes: Mapping[str, EncodedTensor]) -> None:
    """All codes in one .safetensors file, whole or not at all; arrays are named `path:array`."""
    arrays = {f"{tensor}:{name}": array for tensor, code in codes.items() for name, array in code.items()}
    write_bytes(path, safetensors.numpy.save(arrays))


def load_encoded(path: Path) -> dict[str, EncodedTensor]:
    """The inverse of `save_encoded`, but for the order. Raises `CorruptFileError` for a missing or damaged file."""
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
    except OSError as error:
        raise CorruptFileError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:  # of types and sizes in its header
        raise CorruptFileError(f"not a file of codes ({error})", where=str(path), hint="--from quantize") from error
    codes: dict[str, EncodedTensor] = {}
    for key, array in sorted(arrays.items()):
        tensor, _, name = key.rpartition(":")
        codes.setdefault(tensor, {})[name] = array
    return codes


def _require_stats(weights: Mapping[str, Tensor], stats: StatsByPath) -> None:
    if unknown := sorted(weights.keys() - stats.keys()):
        raise BitgolfError(
            f"its codec asks for calibration, which saw no input of it{f' nor of {len(unknown) - 1} more' * (len(unknown) > 1)}",
            where=unknown[0],
            hint="a rule of its own with a codec that rounds to the nearest",
        )


def _same_paths(given: Mapping[str, Any], roles: Roles) -> None:
    if given.keys() != roles.keys():
        raise RecipeError(
            f"roles are not given for exactly these tensors ({_symmetric_difference(given, roles)})", where="quantize"
        )


def _symmetric_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    return ", ".join(sorted(a.keys() ^ b.keys()))[:200]
