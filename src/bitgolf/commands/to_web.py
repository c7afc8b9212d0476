"""`bitgolf to-web`: an artifact as a web page that runs it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bitgolf.artifact.model import LoadedArtifact, load_model_and_codes
from bitgolf.commands.artifacts import find_artifact
from bitgolf.errors import UsageError
from bitgolf.files import write_bytes
from bitgolf.model.parameters import parameter_roles
from bitgolf.pack.streams import EncodedTensor
from bitgolf.quantize.encoding import codecs_by_path
from bitgolf.report.display import current_display
from bitgolf.report.log import RunLog
from bitgolf.report.page_file import check_replaceable
from bitgolf.report.progress import Progress
from bitgolf.report.quiet_matplotlib import quiet_matplotlib
from bitgolf.web.integers import IntegerMatrix, integer_matrix
from bitgolf.web.program import compile_step
from bitgolf.web.tokenizer import tokenizer_data
from bitgolf.web.webassembly import webassembly_module


class WebPageResult(msgspec.Struct, frozen=True):
    """The keys of `to-web --json`.

    page: path of the page. bytes: its size. artifact_bytes: size of the artifact. parameters: their number;
    integers: how many of them the page has as integers, the others are floats. window: longest context in tokens.
    webassembly: whether products are computed in WebAssembly; otherwise in JavaScript, several times slower.
    """

    page: str
    bytes: int
    artifact_bytes: int
    parameters: int
    integers: int
    window: int
    webassembly: bool


def write_web_page(artifact: Path, folder: Path) -> WebPageResult:
    """Write `index.html` to a folder, which is created if necessary: a page that runs the model of an artifact.

    Raises `UsageError` if it would replace a file that is no page, and `BitgolfError` if a part or the tokenizer of the
    model is not available in pages. Nothing is written then.
    """
    path, page = find_artifact(artifact), folder / "index.html"
    if folder.exists() and not folder.is_dir():
        raise UsageError("expected a folder for the page, this is a file", where=str(folder))
    check_replaceable(page)
    current_display().progress(Progress("read the artifact"))
    loaded, codes = load_model_and_codes(path)
    tokenizer, integers = tokenizer_data(loaded.tokenizer), _integers(loaded, codes)
    current_display().progress(Progress("write the page"))
    program = compile_step(loaded.model.eval(), loaded.recipe.score[-1]().window, integers)
    parameters = sum(p.numel() for p in loaded.model.parameters())
    kernels = webassembly_module()
    if kernels is None:
        message = (
            "this llvmlite cannot write WebAssembly: the page computes products in JavaScript, several times slower"
        )
        RunLog().event("warning", message=message)
    with quiet_matplotlib():
        from bitgolf.web.page import PageFacts, model_page
    facts = PageFacts(loaded.name, parameters, path.stat().st_size)
    written = model_page(facts, program, tokenizer, kernels)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(page, written)
    return WebPageResult(
        page=str(page),
        bytes=len(written),
        artifact_bytes=facts.artifact_bytes,
        parameters=parameters,
        integers=sum(m["rows"] * m["columns"] for m in program.matrices if m["type"] != "f32"),
        window=program.places["window"],
        webassembly=kernels is not None,
    )


def _integers(loaded: LoadedArtifact, codes: dict[str, EncodedTensor]) -> dict[str, IntegerMatrix]:
    """The matrices that the page has as integers, by path."""
    codecs = codecs_by_path(parameter_roles(loaded.model), loaded.recipe.quantize)
    found = {
        path: integer_matrix(codecs[path], codes[path], p)
        for path, p in loaded.model.named_parameters()
        if p.dim() == 2 and path in codes
    }
    return {path: matrix for path, matrix in found.items() if matrix is not None}
