"""The command `doctor`: checks of a run, or of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.cli.code_options import accepts_code
from bitgolf.cli.completion import complete_run
from bitgolf.cli.options import DeviceOption, JsonFlag, newest_run, print_result, tokens_option
from bitgolf.errors import UsageError

DOCTOR_TOKENS = 16384
DoctorArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN",
        callback=newest_run,
        autocompletion=complete_run,
        help="The folder of a trained run, or latest, the newest run below runs/. Default: examine the machine.",
    ),
]
DoctorTokens = Annotated[
    int,
    tokens_option("Number of held-out tokens for the measurement. Half as many training tokens are for calibration."),
]
EachFlag = Annotated[bool, typer.Option("--each", help="Measure each tensor alone instead of groups of tensors.")]


@accepts_code
def doctor(
    run: DoctorArgument = None,
    tokens: DoctorTokens = DOCTOR_TOKENS,
    each: EachFlag = False,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Check a run: what quantization costs in bits per byte, by tensor, and errors. Without RUN, check this machine.

    Without RUN it says which processor, GPUs, kernels, coders and packages are there, and what is missing for what. The
    exit status is 1 if a finding on a run is an error.
    """
    if run is None:
        if each or tokens != DOCTOR_TOKENS:
            raise UsageError("--tokens and --each need a run", hint="name the folder of a run, or leave them out")
        return _examine_machine(device, as_json)
    from bitgolf.commands.doctor import diagnose_run
    from bitgolf.commands.doctor_table import doctor_table

    document = diagnose_run(run, tokens=tokens, per_tensor=each, device=device)
    print_result(as_json, document, doctor_table(document))
    if not document.passes:
        raise typer.Exit(1)
    return None


def _examine_machine(device: str, as_json: bool) -> None:
    """Print what this machine can do."""
    from bitgolf.commands.machine import describe_machine
    from bitgolf.commands.machine_table import machine_table

    report = describe_machine(device)
    print_result(as_json, report, machine_table(report))
