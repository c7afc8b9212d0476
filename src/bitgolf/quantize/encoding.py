"""Encoding and decoding of a whole model by rules, the file of codes in a run folder, and reports on each tensor."""

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
from bitgolf.quantize.codecs.joint_encoding import RuleWeights, encode_rules
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.stats import StatsByPath

Roles = Mapping[str, str]
Rules = Sequence[Spec[Rule[Codec]]]


class TensorReport(NamedTuple):
    """Quantization error of one tensor, in units of its weights, and its order-0 entropy in bits per weight.

    The entropy includes scales and all other arrays of the code.
    """

    path: str
    role: str
    codec: str
    elements: int
    max_error: float
    rms_error: float
    bits_per_weight: float


def codecs_by_path(roles: Roles, rules: Rules) -> dict[str, Codec]:
    """Path -> codec, in the order of `roles`. Raises `RecipeError` if a tensor has no rule, or a rule no tensor."""
    codecs: dict[str, Codec] = {}
    for i, paths in enumerate(assign_to_rules(rules, roles, where="quantize")):
        codec = rules[i]().use()
        if not isinstance(codec, Codec):
            raise RecipeError(
                f"{type(codec).__name__} is not a codec",
                where=f"quantize.{i}.use",
                hint="use a codec such as IntRows()",
            )
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
    """Path -> code of every tensor, as arrays on the CPU. Codecs compute on the device of `session`.

    Codes are deterministic on one machine. Between devices a few may differ, as sums are rounded differently.
    stats: calibration statistics.  session: None creates one. A caller that encodes repeatedly passes its own, and
    `stats` that it has moved once with `EncodingSession.to_device`.
    log: called with the device and with each codec's summary.  progress: called with (encoded, total) weights.
    Raises `BitgolfError` if a codec needs statistics and `stats` has none of a tensor; errors name the tensor.
    """
    _same_paths(state, roles)
    session, codes, done = session or EncodingSession(), dict[str, EncodedTensor](), 0
    log(session.description)
    known = session.to_device(stats or {})
    codecs, of = codecs_by_path(roles, rules), sum(w.numel() for w in state.values())
    found = list[RuleWeights]()
    for codec in dict.fromkeys(codecs.values()):
        weights = {path: state[path].to(session.device) for path, own in codecs.items() if own is codec}
        if codec.needs_calibration and stats is not None:
            _require_stats(weights, known)
        found.append(RuleWeights(codec, weights))
    for encoding in encode_rules(found, known, session):
        if encoding.summary:
            log(encoding.summary)
        for path, code in encoding.codes:
            codes[path] = code
            done += state[path].numel()
            progress(done, of)
    return {path: codes[path] for path in codecs}


def context_models(shapes: Mapping[str, Shape], roles: Roles, rules: Rules) -> ContextModels:
    """Path -> array name -> factory of its context model, for the arrays that are coded with contexts."""
    return {
        path: {name: partial(codec.context_model, name, shapes[path]) for name in codec.context_coded}
        for path, codec in codecs_by_path(roles, rules).items()
        if codec.context_coded
    }


def layout(shapes: Mapping[str, Shape], roles: Roles, rules: Rules) -> Layout:
    """Path -> array name -> (dtype, shape), derived from the recipe alone, so that an artifact need not store it."""
    _same_paths(shapes, roles)
    return {path: codec.array_specs(shapes[path]) for path, codec in codecs_by_path(roles, rules).items()}


def decode_model(
    codes: Mapping[str, EncodedTensor], shapes: Mapping[str, Shape], roles: Roles, rules: Rules
) -> dict[str, Tensor]:
    """Path -> decoded float32 tensor. Raises `CorruptFileError` if a code does not fit the shape of its tensor."""
    _same_paths(shapes, roles)
    if codes.keys() != roles.keys():
        raise CorruptFileError(
            f"the codes and the model have different tensors ({_symmetric_difference(codes, roles)})",
            hint="run again with --from quantize",
        )
    decoded: dict[str, Tensor] = {}
    for path, codec in codecs_by_path(roles, rules).items():
        with error_location(path):
            decoded[path] = codec.decode(codes[path], shapes[path])
    return decoded


def tensor_reports(
    state: Mapping[str, Tensor], codes: Mapping[str, EncodedTensor], roles: Roles, rules: Rules
) -> list[TensorReport]:
    """One report for each tensor: `state` compared with the decoded codes."""
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
    """Write all codes to one .safetensors file, atomically. Arrays are named `path:array`."""
    arrays = {f"{tensor}:{name}": array for tensor, code in codes.items() for name, array in code.items()}
    write_bytes(path, safetensors.numpy.save(arrays))


def load_encoded(path: Path) -> dict[str, EncodedTensor]:
    """Read a file of `save_encoded`, sorted by path. Raises `CorruptFileError` if it is missing or damaged."""
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
    except OSError as error:
        raise CorruptFileError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:  # an invalid header
        raise CorruptFileError(
            f"not a valid file of codes ({error})", where=str(path), hint="run again with --from quantize"
        ) from error
    codes: dict[str, EncodedTensor] = {}
    for key, array in sorted(arrays.items()):
        tensor, _, name = key.rpartition(":")
        codes.setdefault(tensor, {})[name] = array
    return codes


def _require_stats(weights: Mapping[str, Tensor], stats: StatsByPath) -> None:
    if missing := sorted(weights.keys() - stats.keys()):
        more = f" and {len(missing) - 1} more" * (len(missing) > 1)
        raise BitgolfError(
            f"the codec needs calibration statistics, and calibration recorded none for this tensor{more}",
            where=missing[0],
            hint="add a rule for it with a codec that needs no calibration, such as IntRows()",
        )


def _same_paths(given: Mapping[str, Any], roles: Roles) -> None:
    if given.keys() != roles.keys():
        raise RecipeError(
            f"tensors and roles have different paths ({_symmetric_difference(given, roles)})", where="quantize"
        )


def _symmetric_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    return ", ".join(sorted(a.keys() ^ b.keys()))[:200]
