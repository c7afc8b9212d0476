"""The stages `quantize` and `pack`: weights -> codes -> the artifact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.artifact.container import Artifact
from bitgolf.artifact.ledger import Entry, choices, ledger, over_cap_advice
from bitgolf.artifact.model import SLICES, build_empty, write
from bitgolf.errors import BitgolfError, DamagedError
from bitgolf.files import file_digest, write_json
from bitgolf.model.lm import LM
from bitgolf.model.part import roles
from bitgolf.pack.parallel import workers
from bitgolf.pack.streams import Code
from bitgolf.pipeline.state import Run
from bitgolf.quantize.calibration.calibrate import load_calibration
from bitgolf.quantize.codecs.session import Session
from bitgolf.quantize.encoding import encode_all, load_codes, report, save_codes
from bitgolf.runtime.device import choose
from bitgolf.tokens.loading import load_tokenizer


class QuantizedTensors(msgspec.Struct, frozen=True):
    """The number of tensors that have codes."""

    tensors: int


class ArtifactSizes(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of an artifact, decimal.

    model: all but the tokenizer; code: None, as an artifact holds no program; total: what counts against the cap: the
    model; self_contained: the whole file.
    """

    model: int
    code: None = None
    tokenizer: int
    total: int
    self_contained: int
    cap: int


class PackedArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """fits: into the cap; a run whose artifact does not ends with an error."""

    bytes: ArtifactSizes
    fits: bool


def load_meta_model(run: Run) -> LM:
    """The model without values, for the tokenizer that the shards were made with; the recipe's may be another, or smaller."""
    tokenizer = load_tokenizer(run.data / "tokenizer.model")
    return build_empty(run.recipe().model, tokenizer.vocab, tokenizer.bos)


# ---- quantize ------------------------------------------------------------------------------------------------------


def quantize_inputs(run: Run) -> list[Any]:
    """The weights, what is known of them, and the rules."""
    files = [run.files.averaged] + [run.files.calibration] * (run.recipe().calibrate is not None)
    if missing := [file for file in files if not file.exists()]:
        raise DamagedError("the file is missing", place=str(missing[0]), mend="--from average")
    return [*map(file_digest, files), run.slice("quantize")]


def quantize(run: Run) -> QuantizedTensors:
    """Weights -> codes, by rules with exact cover."""
    recipe, weights, kinds = run.recipe(), load_file(run.files.averaged), roles(load_meta_model(run))
    stats = load_calibration(run.files.calibration) if recipe.calibrate else None

    def progress(done: int, of: int) -> None:
        run.journal.progress(f"quantize: {done:,} of {of:,} weights")

    session = Session(device=choose(wanted=run.device).device)
    codes = encode_all(weights, kinds, recipe.quantize, stats, session, say=run.journal.say, progress=progress)
    return save_quantized(run, weights, codes, kinds)


def save_quantized(
    run: Run, weights: Mapping[str, Tensor], codes: Mapping[str, Code], kinds: Mapping[str, str]
) -> QuantizedTensors:
    """Write what the stage leaves: the codes, and a report with a row for each tensor."""
    save_codes(run.files.codes, codes)
    rows = report(weights, codes, kinds, run.recipe().quantize)
    write_json(run.files.tensor_reports, [row._asdict() for row in rows])
    return QuantizedTensors(len(codes))


# ---- pack ----------------------------------------------------------------------------------------------------------


def pack_inputs(run: Run) -> list[Any]:
    return [file_digest(run.files.codes), run.slice(*SLICES)]


def pack(run: Run) -> PackedArtifact:
    """Codes -> the artifact. Over the cap is an error, with advice from the ledger on what to cut."""
    recipe, codes = run.recipe(), load_codes(run.files.codes)
    run.journal.say(f"coding with {workers()} threads, as many as this process has CPUs")
    artifact = write(run.files.artifact, run.recipe, codes, (run.data / "tokenizer.model").read_bytes())
    settings = recipe.pack()
    for choice in choices(artifact, codes, settings.grouped(roles(load_meta_model(run)))):
        run.journal.say(f"packed {choice}")
    sizes = artifact_sizes(artifact, settings.cap)
    total, cap = sizes.total, sizes.cap
    whole = f"{sizes.self_contained:,} with the tokenizer"
    run.journal.say(f"packed: {total:,} / {cap:,} bytes (the model alone), {whole}")
    if total > cap:
        cause = f"the artifact is {total - cap:,} bytes over the cap of {cap:,}"
        raise BitgolfError(cause, place=str(run.files.artifact), mend=_over_cap_hint(ledger(artifact), cap))
    return PackedArtifact(bytes=sizes, fits=True)


def artifact_sizes(artifact: Artifact, cap: int) -> ArtifactSizes:
    entries = ledger(artifact)
    tokenizer, total = sum(e.bytes for e in entries if e.name == "tokenizer"), sum(e.bytes for e in entries)
    model = total - tokenizer
    return ArtifactSizes(model=model, tokenizer=tokenizer, total=model, self_contained=total, cap=cap)


def _over_cap_hint(entries: list[Entry], cap: int) -> str:
    """The ledger's largest entries, and how small each would have to be for the cap, were it cut alone."""
    cuts = over_cap_advice([e for e in entries if e.name != "tokenizer"], cap)
    words = [
        f"{c.name} from {c.bytes:,} to {c.bytes_wanted:,} bytes ({c.bits_per_element:.2f} to {c.bits_wanted:.2f} bits each)"
        for c in cuts[:3]
    ]
    return "cut " + "; or ".join(words) if words else "no single section is large enough: make the model smaller"
