"""`bitgolf to-hf`: an artifact as a folder that `transformers` loads, on disk or on the Hugging Face hub."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec

from bitgolf.artifact.container import read_artifact
from bitgolf.artifact.model import artifact_requirements, load_model
from bitgolf.commands.artifacts import find_artifact
from bitgolf.errors import UsageError
from bitgolf.files import write_bytes
from bitgolf.huggingface.folder import folder_files
from bitgolf.huggingface.model_card import model_card
from bitgolf.huggingface.upload import ModelRepository
from bitgolf.pipeline.reporting import read_result
from bitgolf.pipeline.result import RunResult
from bitgolf.pipeline.run_files import RunFiles
from bitgolf.pipeline.state import open_run
from bitgolf.report.display import current_display
from bitgolf.report.log import RunLog
from bitgolf.report.progress import Progress

CARD = "README.md"


class HuggingFaceFolder(msgspec.Struct, frozen=True):
    """The keys of `to-hf --json`. files: name -> bytes. pushed: address of the commit on the hub, "" without one."""

    folder: str
    files: dict[str, int]
    parameters: int
    pushed: str = ""


def to_hf(artifact: Path, target: Path, *, push: str = "", private: bool = False) -> HuggingFaceFolder:
    """Write the folder `target`, and push it to the repository `push` if one is named.

    Raises `UsageError` if `target` has files, the artifact has parts that are not of this package, or the repository
    cannot be used. Nothing is written then.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError("there are files already", where=str(target), hint="name a folder that does not exist")
    if private and not push:
        raise UsageError("only a repository can be private", where="--private", hint="add --push OWNER/NAME")
    repository = ModelRepository(push) if push else None
    path = find_artifact(artifact)
    data = path.read_bytes()
    if needed := artifact_requirements(read_artifact(data)):
        message = f"the model has parts of code that is not of this package: {', '.join(map(str, needed))}"
        hint = "only parts of the package can be written to a folder of Hugging Face"
        raise UsageError(message, where=str(path), hint=hint)
    current_display().progress(Progress("decode the artifact"))
    loaded = load_model(data)
    current_display().progress(Progress("collect the code of the model"))
    files = folder_files(loaded)
    files[CARD] = model_card(loaded, len(data), _result_of(path), push or target.name).encode()
    _write(target, files)
    parameters = sum(p.numel() for p in loaded.model.parameters())
    pushed = ""
    if repository:
        current_display().progress(Progress(f"push to {push}"))
        pushed = repository.push(target, private=private)
    return HuggingFaceFolder(str(target), {name: len(data) for name, data in files.items()}, parameters, pushed)


def _result_of(artifact: Path) -> RunResult | None:
    """The result of the run in whose folder an artifact is; None if it is not in one that is finished."""
    files = RunFiles(artifact.parent)
    if files.artifact.name != artifact.name or not (files.inputs.exists() and files.result.exists()):
        return None
    return read_result(open_run(artifact.parent, RunLog(quiet=True)))


def _write(target: Path, files: dict[str, bytes]) -> None:
    """Write all files of a new folder, or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        for name, data in files.items():
            write_bytes(made / name, data)
        made.chmod(0o755)
        made.replace(target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def to_hf_lines(result: HuggingFaceFolder) -> str:
    """Return the result as text."""
    total = sum(result.files.values())
    lines = [
        f"{result.folder}: {result.parameters:,} parameters, {total:,} bytes",
        *(f"  {name}: {size:,} bytes" for name, size in result.files.items()),
    ]
    if result.pushed:
        return "\n".join([*lines, f"pushed: {result.pushed}"])
    return "\n".join([*lines, f"try: AutoModelForCausalLM.from_pretrained({result.folder!r}, trust_remote_code=True)"])
