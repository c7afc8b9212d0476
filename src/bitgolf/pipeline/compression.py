"""The stages `quantize` (weights to codes) and `pack` (codes to an artifact)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from bitgolf.artifact.container import Artifact, read_artifact
from bitgolf.artifact.ledger import LedgerEntry, coder_reports, ledger, over_cap_advice
from bitgolf.artifact.model import STORED_FIELDS, model_bytes
from bitgolf.data.manifest import data_digest
from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.files import file_digest, write_bytes, write_json
from bitgolf.model.build import build_on_meta
from bitgolf.model.lm import LM
from bitgolf.model.parameters import parameter_roles, read_weights
from bitgolf.pack.parallel import cpu_count
from bitgolf.pack.settings import Pack
from bitgolf.pack.streams import EncodedTensor
from bitgolf.pipeline.code_size import CodeSize, check_room, code_size
from bitgolf.pipeline.state import Run
from bitgolf.pipeline.tuning import tuned_codes
from bitgolf.quantize.calibration.stats_file import load_calibration
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.encoding import encode_model, load_encoded, save_encoded, tensor_reports
from bitgolf.report.progress import WorkProgress
from bitgolf.runtime.device import select_device
from bitgolf.tokens.loading import load_tokenizer


class QuantizedTensors(msgspec.Struct, frozen=True):
    """Outcome of the stage `quantize`: the number of encoded tensors."""

    tensors: int


class ArtifactSizes(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of an artifact and of the code that belongs to it, and the cap.

    model: all sections except the tokenizer. code: the script that `export` writes; None if none can be made, and
    `code_note` says why. counted: what the cap limits, `model` or `model+code`; total: the size of that. self_contained:
    the whole file of the artifact.
    """

    model: int
    code: int | None = None
    code_note: str = ""
    tokenizer: int
    counted: str = "model"
    total: int
    self_contained: int
    cap: int

    @property
    def code_counts(self) -> bool:
        """Whether `total` includes the code."""
        return self.counted == "model+code" and self.code is not None


class PackedArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of the stage `pack`. fits: the artifact is within the cap, since it is not written otherwise."""

    bytes: ArtifactSizes
    fits: bool


def load_meta_model(run: Run) -> LM:
    """The run's model on the meta device.

    Its vocabulary is that of the tokenizer that made the shards, which can differ from the recipe's.
    """
    tokenizer = load_tokenizer(run.data_folder / "tokenizer.model")
    return build_on_meta(run.recipe().model, tokenizer.vocab, tokenizer.bos)


# ---- quantize ------------------------------------------------------------------------------------------------------


def quantize_inputs(run: Run) -> list[Any]:
    """Digests of the weights and of the calibration, and the rules. Raises `CorruptFileError` if a file is missing."""
    files = [run.files.averaged] + [run.files.calibration] * (run.recipe().calibrate is not None)
    if missing := [file for file in files if not file.exists()]:
        raise CorruptFileError("the file is missing", where=str(missing[0]), hint="--from average writes it again")
    return [*map(file_digest, files), run.settings("quantize"), *_tuning_inputs(run)]


def _tuning_inputs(run: Run) -> list[Any]:
    """Settings and text of the tuning of float parameters; empty if the recipe has none."""
    recipe = run.recipe()
    return [run.settings("tune"), data_digest(run.data_folder), recipe.train().length] if recipe.tune else []


def encode_weights(run: Run) -> None:
    """Check of the stage `quantize`: encode the averaged weights, each tensor with the codec of the rule that matches it.

    If the folder has an artifact, the codes are packed as well, so that codes whose artifact would be over the cap do
    not replace those of a good one. Raises `BitgolfError` then.
    """
    recipe, roles = run.recipe(), parameter_roles(load_meta_model(run))
    weights = read_weights(run.files.averaged, stage="average")
    stats = load_calibration(run.files.calibration) if recipe.calibrate else None
    progress = WorkProgress(run.log.progress, "quantize", "weights").update
    session = EncodingSession(device=select_device(device_type=run.device_type).torch_device)
    codes = encode_model(weights, roles, recipe.quantize, stats, session, log=run.log.detail, progress=progress)
    codes = tuned_codes(run, run.recipe, weights, codes)
    if "pack" in run.completed:
        run.pending.artifact = _pack_within_cap(run, codes)
    run.pending.codes = codes


def quantize(run: Run) -> QuantizedTensors:
    """Write the codes, and a report with a row for each tensor."""
    if run.pending.codes is None:
        encode_weights(run)
    assert run.pending.codes is not None
    codes, run.pending.codes = run.pending.codes, None
    save_encoded(run.files.codes, codes)
    weights = read_weights(run.files.averaged, stage="average")
    roles = parameter_roles(load_meta_model(run))
    rows = tensor_reports(weights, codes, roles, run.recipe().quantize)
    write_json(run.files.tensor_reports, [row._asdict() for row in rows])
    return QuantizedTensors(len(codes))


# ---- pack ----------------------------------------------------------------------------------------------------------


def pack_inputs(run: Run) -> list[Any]:
    """Digest of the codes, the stored settings, and the size of the code, which the outcome states."""
    return [file_digest(run.files.codes), run.settings(*STORED_FIELDS), _code_size(run).bytes]


def _code_size(run: Run) -> CodeSize:
    return code_size(run.recipe, load_tokenizer(run.data_folder / "tokenizer.model").kind)


def check_fits(run: Run) -> None:
    """Check of the stage `pack`: pack the codes. Raises `BitgolfError` if the artifact is over the cap."""
    if run.pending.artifact is None:
        run.pending.artifact = _pack_within_cap(run, load_encoded(run.files.codes))


def pack(run: Run) -> PackedArtifact:
    """Write the artifact."""
    check_fits(run)
    assert run.pending.artifact is not None
    data, run.pending.artifact = run.pending.artifact, None
    write_bytes(run.files.artifact, data)
    return PackedArtifact(bytes=artifact_sizes(read_artifact(data), run.recipe().pack(), _code_size(run)), fits=True)


def _pack_within_cap(run: Run, codes: Mapping[str, EncodedTensor]) -> bytes:
    """Pack codes; returns the bytes of the artifact.

    Raises `BitgolfError` if they are over the cap, with a hint from the ledger on what to make smaller.
    """
    settings = run.recipe().pack()
    run.log.detail(f"coding with {cpu_count()} threads, the number of CPUs of this process")
    data = model_bytes(run.recipe, codes, (run.data_folder / "tokenizer.model").read_bytes())
    artifact = read_artifact(data)
    for choice in coder_reports(artifact, codes, settings.groups_by_path(parameter_roles(load_meta_model(run)))):
        run.log.detail(f"packed {choice}")
    code = _code_size(run)
    check_room(settings, code)
    sizes = artifact_sizes(artifact, settings, code)
    total, cap, counted = sizes.total, sizes.cap, settings.counted_code(code.bytes)
    subject = f"model and script ({sizes.model:,} + {counted:,} bytes)" if counted else "without the tokenizer"
    whole = f"{sizes.self_contained:,} bytes with the tokenizer"
    run.log.info(f"packed: {total:,} / {cap:,} bytes ({subject}), {whole}")
    if total > cap:
        run.log.event("over_cap", bytes=total, cap=cap)
        cause = (
            f"the artifact {'and the script are' if counted else 'is'} {total - cap:,} bytes over the cap of {cap:,}"
        )
        hint = _over_cap_hint(ledger(artifact), cap - counted)
        raise BitgolfError(cause, where=str(run.files.artifact), hint=hint)
    return data


def artifact_sizes(artifact: Artifact, settings: Pack, code: CodeSize) -> ArtifactSizes:
    """Bytes of the model, of the tokenizer and of both, from the artifact's ledger, and what counts against the cap."""
    entries = ledger(artifact)
    tokenizer, whole = sum(e.bytes for e in entries if e.name == "tokenizer"), sum(e.bytes for e in entries)
    return ArtifactSizes(
        model=whole - tokenizer,
        code=code.bytes,
        code_note=code.note,
        tokenizer=tokenizer,
        counted=settings.counted,
        total=whole - tokenizer + settings.counted_code(code.bytes),
        self_contained=whole,
        cap=settings.cap,
    )


def _over_cap_hint(entries: list[LedgerEntry], cap: int) -> str:
    """Advice on the largest entries of the ledger: sizes at which the artifact would meet the cap.

    Each cut suffices alone, or, if no single one can, all are needed together.
    """
    cuts = over_cap_advice([e for e in entries if e.name != "tokenizer"], cap)
    words = [
        f"{c.name} from {c.bytes:,} to {c.bytes_wanted:,} bytes"
        f" ({c.bits_per_element:.2f} to {c.bits_wanted:.2f} bits per element)"
        for c in cuts[:3]
    ]
    together = "; or " if all(c.alone for c in cuts) else "; and "
    return "cut " + together.join(words) if words else "no single section is large enough to cut: use a smaller model"
