"""The commands on record folders, records and evidence: `export`, `check`, `record`, `bundle`, `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from bitgolf.cli.code_options import accepts_code
from bitgolf.cli.completion import complete_run, one_of
from bitgolf.cli.options import MOST_PROCESSES, JsonFlag, newest_run, print_result, start_work
from bitgolf.errors import UsageError
from bitgolf.report.display import current_display

MOST_TRIES = 1_000_000
LEAST_SEVERITIES = ("error", "warning", "note")
FoldersArgument = Annotated[
    list[Path], typer.Argument(metavar="FOLDER…", help="Record folders, or folders that contain some at any depth.")
]
LeastOption = Annotated[
    str,
    typer.Option(
        "--least",
        metavar="SEVERITY",
        autocompletion=one_of(*LEAST_SEVERITIES),
        help="List findings from this severity on: error, warning or note. Default: note for one folder, error for more.",
    ),
]
CheckProcesses = Annotated[
    int,
    typer.Option("--processes", metavar="N", min=0, max=MOST_PROCESSES, help="Processes. Default: one on each core."),
]


def check(
    folders: FoldersArgument, least: LeastOption = "", processes: CheckProcesses = 0, as_json: JsonFlag = False
) -> None:
    """Check record folders of the challenge, anybody's: claims, logs, sizes, clocks, data, and what the code does.

    Nothing in a folder is run: packed code is unpacked by reading. docs/rules.md explains each rule, and how it can be
    wrong. The exit status is 1 if a finding is an error.
    """
    if least and least not in LEAST_SEVERITIES:
        raise UsageError(f"--least must be error, warning or note, got {least!r}")
    start_work()
    from bitgolf.commands.check import check_folders, check_lines
    from bitgolf.report.findings import Severity

    result = check_folders(folders, processes, current_display().progress)
    current_display().end_progress()
    print_result(as_json, result, check_lines(result, cast(Severity, least) if least else None))
    if not result.passes:
        raise typer.Exit(1)


RunsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN…", autocompletion=complete_run, help="Folders of runs of one recipe, one for each seed."
    ),
]
AgainstOption = Annotated[
    str,
    typer.Option(
        "--against",
        metavar="RUN,RUN…|FOLDER|BPB",
        help="What is to be beaten: runs separated by commas, a record folder, or a score in bits per byte.",
    ),
]
MarginNats = Annotated[
    float, typer.Option("--margin", metavar="NATS", min=0, help="Nats per token by which a record must be better.")
]
MarginBpb = Annotated[
    float | None, typer.Option("--margin-bpb", metavar="BPB", min=0, help="The margin in bits per byte instead.")
]
AlphaOption = Annotated[
    float, typer.Option("--alpha", metavar="P", min=1e-6, max=0.5, help="Chance of a false record that is accepted.")
]
TriesOption = Annotated[
    int,
    typer.Option(
        "--tries", metavar="N", min=1, max=MOST_TRIES, help="Systems that were tried, of which this is the best."
    ),
]
RecordMethod = Annotated[
    str, typer.Option("--with", metavar="METHOD", help="Scoring method of the runs. Default: the best of each run.")
]
PairedFlag = Annotated[
    bool,
    typer.Option(
        "--paired", help="Compare equal seeds with each other, where they decide the same, as the data order."
    ),
]


def record(
    runs: RunsArgument,
    against: AgainstOption,
    margin: MarginNats = 0.005,
    margin_bpb: MarginBpb = None,
    alpha: AlphaOption = 0.01,
    tries: TriesOption = 1,
    method: RecordMethod = "",
    paired: PairedFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Say whether runs are a record: better by more than a margin, beyond the spread between seeds.

    The margin is converted to bits per byte by the tokens per byte of the runs. Scores on different validation text are
    refused. The exit status is 1 if it is no record.
    """
    start_work()
    from bitgolf.commands.record import RecordOptions, judge_record, verdict_lines

    verdict = judge_record(runs, against, RecordOptions(margin, margin_bpb, alpha, tries, method, paired))
    print_result(as_json, verdict, verdict_lines(verdict))
    if not verdict.is_record:
        raise typer.Exit(1)


BundledRun = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", callback=newest_run, autocompletion=complete_run, help="The folder of a finished run."
    ),
]
BundleFile = Annotated[Path, typer.Argument(metavar="FILE", help="The bundle, a ZIP file.")]
ProofOption = Annotated[
    Path | None, typer.Option("--proof", metavar="DIR", help="Folder of a proof of `compress --proof`, to put into it.")
]
VerdictOption = Annotated[
    Path | None, typer.Option("--record", metavar="FILE", help="Output of `record --json`, to put into it.")
]
KeyFile = Annotated[
    Path | None, typer.Option("--sign", metavar="KEY", help="SSH key with which ssh-keygen signs the bundle.")
]
ForceFlag = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]


def bundle(
    run: BundledRun,
    file: BundleFile,
    proof: ProofOption = None,
    record: VerdictOption = None,
    sign: KeyFile = None,
    force: ForceFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Put the evidence for a result into one file that anybody can verify offline.

    Recipe, code, artifact, tokenizer, digests of the data, environment, clocks, log, what each switch touched, and
    optionally a proof by compression and statistics. It has no paths of this machine.
    """
    start_work()
    from bitgolf.commands.evidence import bundle_lines, make_bundle

    result = make_bundle(run, file, proof=proof, record=record, key=sign, force=force)
    print_result(as_json, result, bundle_lines(result))


VerifiedFile = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle.")]
GroupsOption = Annotated[
    int,
    typer.Option("--groups", metavar="N", min=0, help="Groups of the proof to restore, 0 for all. Each takes minutes."),
]
ChallengeOption = Annotated[
    str, typer.Option("--challenge", metavar="TEXT", help="Any text: it decides which groups are drawn.")
]
SignersOption = Annotated[
    Path | None, typer.Option("--signers", metavar="FILE", help="An allowed_signers file of ssh-keygen.")
]
IdentityOption = Annotated[
    str, typer.Option("--identity", metavar="NAME", help="Who must have signed, as in --signers.")
]


def verify(
    file: VerifiedFile,
    groups: GroupsOption = 1,
    challenge: ChallengeOption = "",
    signers: SignersOption = None,
    identity: IdentityOption = "",
    as_json: JsonFlag = False,
) -> None:
    """Verify a bundle offline: say what was checked here, what is only claimed, and what is wrong.

    A byte of the file that changed is an error. The exit status is 1 if anything failed.
    """
    if bool(signers) != bool(identity):
        raise UsageError("--signers and --identity belong together", hint="give both, or neither")
    start_work()
    from bitgolf.commands.evidence import verify_bundle, verify_lines

    result = verify_bundle(file, groups=groups, challenge=challenge, signers=signers, identity=identity)
    print_result(as_json, result, verify_lines(result))
    if not result.passes:
        raise typer.Exit(1)


TargetArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The record folder, which must not exist.")]
AuthorOption = Annotated[str, typer.Option("--author", metavar="NAME", help="Author, for submission.json.")]
GithubOption = Annotated[str, typer.Option("--github", metavar="ID", help="The author's name on GitHub.")]
TitleOption = Annotated[
    str, typer.Option("--name", metavar="NAME", help="Name of the submission. Default: that of the recipe.")
]
BlurbOption = Annotated[str, typer.Option("--blurb", metavar="TEXT", help="One sentence about the submission.")]


@accepts_code
def export(
    runs: RunsArgument,
    folder: TargetArgument,
    author: AuthorOption = "",
    github: GithubOption = "",
    name: TitleOption = "",
    blurb: BlurbOption = "",
    as_json: JsonFlag = False,
) -> None:
    """Write a record folder: a self-contained script, README.md, submission.json, requirements.txt, a log per seed.

    The script has only the code that the recipe reaches. It trains, quantizes, packs and scores by itself, alone or
    under torchrun, and its size counts against the cap.
    """
    start_work()
    from bitgolf.commands.export import ExportOptions, export_lines, export_runs

    result = export_runs(runs, folder, ExportOptions(author, github, name, blurb))
    print_result(as_json, result, export_lines(result))
