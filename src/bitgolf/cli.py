"""The face: one command with verbs. Torch is imported only by the verbs that need it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bitgolf import __version__
from bitgolf.errors import BitgolfError, UsageError

app = typer.Typer(
    name="bitgolf",
    help="Train, shrink and prove the best language model that fits a byte budget and a time budget.",
    epilog="Start here:  bitgolf run quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Make and check shards.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output; all else on standard error.")]
Sets = Annotated[
    list[str], typer.Option("--set", metavar="PATH=VALUE", help="Edit the recipe at a path; may be repeated.")
]
Texts = Annotated[
    list[Path], typer.Option("--text", help="Text files or folders: txt, md, py, jsonl; plain, .zst, .gz or .xz.")
]
Shards = Annotated[
    Path | None, typer.Option("--shards", help="A folder of shards with its tokenizer, as `data make` writes it.")
]
Artifact = Annotated[Path, typer.Argument(help="A packed model: artifact.bg, or the run folder that holds it.")]


def emit(as_json: bool, document: Any, text: str) -> None:
    """The result of a verb: the document, or what a person reads."""
    print(json.dumps(document, indent=1, ensure_ascii=False) if as_json else text)


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the recipes, with the bits per byte that their authors published."""
    from bitgolf.recipes import describe, names, published

    known = {name: describe(name) for name in names()}
    lines = [f"{'recipe':18s} {'published bpb':16s} what it is"]
    for name, line in known.items():
        stage, bpb = published(name) or ("", "-")
        lines.append(f"{name:18s} {f'{bpb} {stage}':16s} {line}")
    emit(as_json, known, "\n".join(lines))


@app.command()
def show(recipe: str, sets: Sets = [], as_json: Json = False) -> None:  # noqa: B006
    """Resolve a recipe: parameters by role, forecast of the packed bytes, cautions. Trains nothing."""
    from bitgolf.overview import overview
    from bitgolf.tables import show_table

    document = overview(resolve(recipe, sets))
    emit(as_json, document, show_table(document))


@app.command()
def diff(a: str, b: str, as_json: Json = False) -> None:
    """Compare two recipes, path by path."""
    from bitgolf.edits import diff as spec_diff

    rows = spec_diff(resolve(a, []), resolve(b, []))
    document = [{"path": p, "a": x, "b": y} for p, x, y in rows]
    emit(as_json, document, "\n".join(f"{p}: {x!r} -> {y!r}" for p, x, y in rows) or "the same")


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, a recipe.json, or an earlier run's folder.")],
    sets: Sets = [],  # noqa: B006
    text: Texts = [],  # noqa: B006
    shards: Shards = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run's folder. Default: runs/NAME-HASH-sSEED.")] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    devices: Annotated[
        int, typer.Option("--devices", min=1, help="Processes to train and score with, one GPU each if there are any.")
    ] = 1,
    first: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Do this stage and the later ones again.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished training.")] = False,
    as_json: Json = False,
) -> None:
    """The whole pipeline, or its rest: prepare, train, average, calibrate, quantize, pack, score, report."""
    from bitgolf import pipeline
    from bitgolf.tables import run_table

    if first is not None and first not in pipeline.STAGES:
        raise UsageError(f"there is no stage {first!r}", mend=f"stages: {', '.join(pipeline.STAGES)}")
    document = pipeline.start(
        recipe,
        resolve(recipe, sets),
        text=text,
        shards=shards,
        out=out,
        seed=seed,
        devices=devices,
        first=first,
        resume=resume,
    )
    emit(as_json, document, run_table(document))


@app.command()
def score(
    artifact: Artifact,
    text: Texts = [],  # noqa: B006
    shards: Shards = None,
    methods: Annotated[
        list[str], typer.Option("--with", metavar="METHOD", help="By name; may be repeated. Default: the recipe's own.")
    ] = [],  # noqa: B006
    sets: Annotated[
        list[str], typer.Option("--set", metavar="SETTING=VALUE", help="Edit every method that has it: window=2048.")
    ] = [],  # noqa: B006
    order: Annotated[str | None, typer.Option("--order", help="Of documents: corpus, shuffled or longest.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of `--order shuffled`.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, metavar="TOKENS", help="Read at once: bounds memory.")] = 4096,
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="That share the work, one GPU each where there are any.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """The referee's score of an artifact: bits per byte, every target once.

    Methods: contiguous, sliding, cached, lora, sgd, phased, mixed; `adapt` is all of the recipe's that adapt. One that
    adapts is scored without adaptation first. The order `longest` is charged the bits of the documents' lengths.
    """
    from bitgolf.tables import score_table
    from bitgolf.verbs import score as score_artifact

    document = score_artifact(
        artifact, text, shards, names=methods, edits=sets, order=order, seed=seed, batch=batch, processes=processes
    )
    emit(as_json, document, score_table(document))


@app.command()
def compress(
    artifact: Artifact,
    source: Annotated[Path | None, typer.Argument(metavar="IN")] = None,
    target: Annotated[Path | None, typer.Argument(metavar="OUT")] = None,
    proof: Annotated[Path | None, typer.Option("--proof", metavar="FOLDER", help="Prove a score, here.")] = None,
    text: Texts = [],  # noqa: B006
    shards: Shards = None,
    methods: Annotated[list[str], typer.Option("--with", metavar="METHOD", help="To prove: as in `score`.")] = [],  # noqa: B006
    sets: Annotated[list[str], typer.Option("--set", metavar="SETTING=VALUE", help="Edit the method.")] = [],  # noqa: B006
    size: Annotated[int, typer.Option("--bytes", min=0, help="Prove the text's first so many; 0: all.")] = 0,
    sample: Annotated[int, typer.Option("--sample", min=0, help="Groups to restore; 0: all.")] = 8,
    challenge: Annotated[str, typer.Option("--challenge", help="Of a doubter: decides with the commitment.")] = "",
    as_json: Json = False,
) -> None:
    """Compress any file with the model, losslessly; or prove a score: `compress ARTIFACT --proof FOLDER --text PATH`."""
    from bitgolf.verbs import compress_file, prove_score

    if proof and not source:
        d = prove_score(artifact, proof, text, shards, methods, sets, size, sample, challenge)
        line = f"{d['bytes']:,} bytes coded in {d['coded_bytes']:,}, {d['overhead_percent']:.3f} % over the claimed {d['claimed_bpb']:.5f} bits per byte; {len(d['sampled'])} of {d['groups']} groups restored by another process"
    elif source and target and not (proof or text or shards or methods or sets):
        d = compress_file(artifact, source, target)
        line = f"{d['bytes_in']:,} -> {d['bytes_out']:,} bytes, {d['bpb_coded']:.4f} bits per byte coded, {d['bpb_predicted']:.4f} predicted"
    else:
        raise UsageError("either a file or a proof", mend="compress ARTIFACT IN OUT, or ARTIFACT --proof FOLDER …")
    emit(as_json, d, line)


@app.command()
def decompress(artifact: Artifact, source: Path, target: Path, as_json: Json = False) -> None:
    """Restore a file that `compress` wrote, bit for bit."""
    from bitgolf.verbs import decompress_file

    d = decompress_file(artifact, source, target)
    emit(as_json, d, f"{d['bytes_in']:,} -> {d['bytes_out']:,} bytes")


@app.command()
def generate(
    artifact: Artifact,
    prompt: Annotated[str, typer.Option("--prompt")] = "",
    tokens: Annotated[int, typer.Option("--tokens", min=1)] = 200,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0)] = 0.8,
    top: Annotated[int, typer.Option("--top", min=0, help="Sample among the likeliest so many tokens; 0 is all.")] = 0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    as_json: Json = False,
) -> None:
    """Sample text from the model."""
    from bitgolf.verbs import sample

    document = sample(artifact, prompt, tokens=tokens, temperature=temperature, top=top, seed=seed)
    emit(as_json, document, document["text"])


@app.command()
def ledger(artifact: Artifact, as_json: Json = False) -> None:
    """Where every byte of an artifact went."""
    from bitgolf.tables import ledger_table
    from bitgolf.verbs import ledger_of

    document = ledger_of(artifact)
    emit(as_json, document, ledger_table(document))


@app.command()
def doctor(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that was quantized.")],
    tokens: Annotated[
        int, typer.Option("--tokens", min=64, help="Held-out tokens to measure on; half as many calibrate.")
    ] = 16384,
    each: Annotated[bool, typer.Option("--each", help="Measure every tensor, not kinds of them together.")] = False,
    as_json: Json = False,
) -> None:
    """Where the bits per byte went that quantization cost, and what is wrong with it. Exit status 1 for an error."""
    from bitgolf.checkup import doctor as examine
    from bitgolf.tables import doctor_table

    document = examine(run, tokens=tokens, each=each)
    emit(as_json, document, doctor_table(document))
    if not document["passes"]:
        raise typer.Exit(1)


@app.command()
def pack(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that was trained.")],
    cap: Annotated[
        int | None,
        typer.Option("--cap", min=1, metavar="BYTES", help="The most bytes, decimal. Default: the recipe's."),
    ] = None,
    self_contained: Annotated[
        bool, typer.Option("--self-contained", help="Count the whole file, not the model alone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Quantize and pack a run's weights again with the steps that fill a cap: never over it, 0.05 % under it at most."""
    from bitgolf.shrinking import pack_to
    from bitgolf.tables import pack_table

    document = pack_to(run, cap, self_contained=self_contained)
    emit(as_json, document, pack_table(document))


@app.command()
def sweep(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that was trained.")],
    sets: Annotated[
        list[str],
        typer.Option("--set", metavar="PATH=VALUE,VALUE", help="Values to try at a path of `quantize` or `pack`."),
    ],
    measure: Annotated[bool, typer.Option("--score", help="Measure bits per byte, not only predict.")] = False,
    tokens: Annotated[int, typer.Option("--tokens", min=64, help="Held-out tokens to measure on.")] = 65536,
    as_json: Json = False,
) -> None:
    """Every combination of settings on a run's weights, without training: bytes and bits per byte, in one table."""
    from bitgolf.sweep import sweep as sweep_run
    from bitgolf.tables import sweep_table

    document = sweep_run(run, sets, tokens=tokens if measure else None)
    emit(as_json, document, sweep_table(document))


@data_app.command("make")
def data_make(
    folder: Path,
    text: Texts,
    kind: Annotated[
        str, typer.Option("--kind", help="Of tokenizer: sentencepiece, caseops (capitals are operators), bytes.")
    ] = "sentencepiece",
    vocab: Annotated[int, typer.Option("--vocab", min=300, max=65536)] = 1024,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="A tokenizer's file to use instead of training one.")
    ] = None,
    held_out: Annotated[
        float, typer.Option("--held-out", min=0.001, max=0.9, help="Share of documents to hold out, by hash.")
    ] = 0.05,
    as_json: Json = False,
) -> None:
    """Text -> tokenizer, training and validation shards."""
    from bitgolf.verbs import make_data

    d = make_data(folder, text, vocab, tokenizer, held_out, kind)
    counts = f"{folder}: {d['train']['tokens']:,} training tokens, {d['val']['tokens']:,} validation tokens"
    emit(as_json, d, "\n".join([counts, *(f"{f['severity']}: {f['message']}" for f in d["findings"])]))


@data_app.command("check")
def data_check(folder: Path, as_json: Json = False) -> None:
    """Check shards: format, sizes, digests, document starts, overlap of training and validation."""
    from bitgolf.verbs import check_data

    d = check_data(folder)
    emit(as_json, d, "\n".join(f"{f['severity']}: {f['message']}" for f in d["findings"]) or "no findings")
    if not d["passes"]:
        raise typer.Exit(1)


def resolve(recipe: str, sets: Sequence[str]) -> Any:
    """A recipe by name, by its JSON file, or by the folder of a run; then the edits of the command line, in order."""
    from bitgolf.files import read_json
    from bitgolf.names import from_json, set_text
    from bitgolf.recipes import get

    path = Path(recipe)
    path = path / "recipe.json" if path.is_dir() else path
    spec = from_json(read_json(path)) if path.suffix == ".json" else get(recipe)
    for assignment in sets:
        changed = set_text(spec, assignment)
        if changed == spec:
            print(f"note: --set {assignment} changes nothing, the recipe says so already", file=sys.stderr)
        spec = changed
    return spec


def version(value: bool) -> None:
    if value:
        print(f"bitgolf {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of every verb."""


def main() -> None:
    """Exit status 2 for wrong use, 1 for failure; a traceback only with --debug."""
    try:
        app()
    except BitgolfError as error:
        if "--debug" in sys.argv:
            raise
        print(f"bitgolf: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
