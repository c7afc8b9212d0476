"""The codes of a whole model: encoded, laid out and decoded by rules, saved in the run folder, reported by tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.numpy
from torch import Tensor

from bitgolf.config.rules import Rule, cover
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, DamagedError, RecipeError, at
from bitgolf.files import write_bytes
from bitgolf.pack.byte_planes import entropy_bits
from bitgolf.pack.streams import Code, Layout, Walks
from bitgolf.quantize.codecs.codec import Codec, Shape
from bitgolf.quantize.codecs.session import Session
from bitgolf.quantize.stats import Calibration

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


def assign(roles: Roles, rules: Rules) -> dict[str, Codec]:
    """path -> its codec, in the order of `roles`. Raises `RecipeError` where the rules do not cover exactly."""
    codecs: dict[str, Codec] = {}
    for i, paths in enumerate(cover(rules, roles, place="quantize")):
        codec = rules[i]().use()
        if not isinstance(codec, Codec):
            raise RecipeError(f"{type(codec).__name__} is not a codec", place=f"quantize.{i}.use")
        codecs.update(dict.fromkeys(paths, codec))
    return {path: codecs[path] for path in roles}


def encode_all(
    state: Mapping[str, Tensor],
    roles: Roles,
    rules: Rules,
    stats: Calibration | None = None,
    session: Session | None = None,
    *,
    say: Callable[[str], None] = lambda remark: None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Code]:
    """path -> code of every tensor. An error names its tensor. `stats`: what calibration knows.

    Codecs work on the session's device; the codes are on the CPU. On another device a few indices may differ, as sums are
    rounded otherwise; on one machine they are the same every time.
    session: the caller's, if it encodes more than once; it then also places `stats` once (`Session.placed`).
    `say` hears where work is done and what codecs chose, `progress` (done, of) weights.
    Raises `BitgolfError` where a codec asks for statistics of a tensor that has none.
    """
    _same_paths(state, roles)
    session, codes, done = session or Session(), dict[str, Code](), 0
    say(session.remark)
    known = session.placed(stats or {})
    codecs, of = assign(roles, rules), sum(w.numel() for w in state.values())
    for codec in dict.fromkeys(codecs.values()):
        weights = {path: state[path].to(session.device) for path, own in codecs.items() if own is codec}
        if codec.calibrated and stats is not None:
            _all_known(weights, known)
        encoding = codec.fit_encode(weights, known, session)
        if encoding.summary:
            say(encoding.summary)
        for path, code in encoding.codes:
            codes[path] = code
            done += state[path].numel()
            progress(done, of)
    return {path: codes[path] for path in codecs}


def walks(shapes: Mapping[str, Shape], roles: Roles, rules: Rules) -> Walks:
    """path -> name of array -> a fresh walk over it, for the arrays that are coded in contexts."""
    return {
        path: {name: partial(codec.walk, name, shapes[path]) for name in codec.contextual}
        for path, codec in assign(roles, rules).items()
        if codec.contextual
    }


def layout(shapes: Mapping[str, Shape], roles: Roles, rules: Rules) -> Layout:
    """path -> name of array -> (type, shape): all that unpacking needs to know, and no file has to say."""
    _same_paths(shapes, roles)
    return {path: codec.arrays(shapes[path]) for path, codec in assign(roles, rules).items()}


def decode_all(codes: Mapping[str, Code], shapes: Mapping[str, Shape], roles: Roles, rules: Rules) -> dict[str, Tensor]:
    """path -> float32 tensor. Raises `DamagedError`, naming the tensor, where a code does not fit its shape."""
    _same_paths(shapes, roles)
    if codes.keys() != roles.keys():
        raise DamagedError(f"the codes are not those of this model ({_odd(codes, roles)})")
    decoded: dict[str, Tensor] = {}
    for path, codec in assign(roles, rules).items():
        with at(path):
            decoded[path] = codec.decode(codes[path], shapes[path])
    return decoded


def report(state: Mapping[str, Tensor], codes: Mapping[str, Code], roles: Roles, rules: Rules) -> list[TensorReport]:
    """One row for each tensor, measured on what its code decodes to."""
    shapes = {path: tuple(w.shape) for path, w in state.items()}
    decoded = decode_all(codes, shapes, roles, rules)
    codecs = assign(roles, rules)
    rows = []
    for path, w in decoded.items():
        error = (w - state[path].detach().cpu().float()).double().abs()
        bits = sum(entropy_bits(array) for array in codes[path].values())
        largest, rms = error.max().item(), error.square().mean().sqrt().item()
        kind = type(codecs[path]).__name__
        rows.append(TensorReport(path, roles[path], kind, w.numel(), largest, rms, bits / w.numel()))
    return rows


# ---- in the run folder ---------------------------------------------------------------------------------------------


def save_codes(path: Path, codes: Mapping[str, Code]) -> None:
    """All codes in one .safetensors file, whole or not at all; arrays are named `path:array`."""
    arrays = {f"{tensor}:{name}": array for tensor, code in codes.items() for name, array in code.items()}
    write_bytes(path, safetensors.numpy.save(arrays))


def load_codes(path: Path) -> dict[str, Code]:
    """The inverse of `save_codes`, but for the order. Raises `DamagedError` for a missing or damaged file."""
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
    except OSError as error:
        raise DamagedError(f"cannot be read ({error.strerror})", place=str(path)) from error
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:  # of types and sizes in its header
        raise DamagedError(f"not a file of codes ({error})", place=str(path), mend="--from quantize") from error
    codes: dict[str, Code] = {}
    for key, array in sorted(arrays.items()):
        tensor, _, name = key.rpartition(":")
        codes.setdefault(tensor, {})[name] = array
    return codes


def _all_known(weights: Mapping[str, Tensor], stats: Calibration) -> None:
    if unknown := sorted(weights.keys() - stats.keys()):
        raise BitgolfError(
            f"its codec asks for calibration, which saw no input of it{f' nor of {len(unknown) - 1} more' * (len(unknown) > 1)}",
            place=unknown[0],
            mend="a rule of its own with a codec that rounds to the nearest",
        )


def _same_paths(given: Mapping[str, Any], roles: Roles) -> None:
    if given.keys() != roles.keys():
        raise RecipeError(f"roles are not given for exactly these tensors ({_odd(given, roles)})", place="quantize")


def _odd(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    return ", ".join(sorted(a.keys() ^ b.keys()))[:200]
