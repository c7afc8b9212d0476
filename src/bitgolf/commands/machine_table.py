"""The result of `doctor` without a run as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bitgolf.commands.tables import table

if TYPE_CHECKING:
    from bitgolf.commands.machine import Availability, MachineReport


def machine_table(report: MachineReport) -> str:
    """Processor, memory, GPUs, versions, kernels, coders, extras, folders, and what is missing."""
    cpu = report.cpu
    facts = [
        ("CPU", f"{cpu.model}, {', '.join(cpu.features) or 'no vector features known'}"),
        ("cores", f"{cpu.cores} usable, {cpu.threads} threads in PyTorch"),
        ("memory", _bytes(cpu.memory_bytes)),
        *((f"GPU {i}", _gpu(report, i)) for i in range(len(report.gpus))),
        *([] if report.gpus else [("GPU", "none that PyTorch can use")]),
        ("NVIDIA driver", report.driver or "none"),
        ("CUDA in PyTorch", report.cuda or "none"),
        ("--device auto", report.device),
        ("free for runs", f"{_bytes(report.free_bytes)} at {report.runs_folder}"),
        ("machine code", report.machine_code_folder or "not kept: there is no home folder"),
        ("codecs", ", ".join(report.codecs)),
        ("scoring methods", ", ".join(report.methods)),
    ]
    versions = [(name, version) for name, version in report.versions.items()]
    missing = "\n".join(f"  {note}" for note in report.notes)
    return "\n\n".join(
        [
            table("Machine", ("", ""), facts, text_columns=2),
            table("Versions", ("", "version"), versions, text_columns=2),
            _availability("Fused kernels, tried by train.kernels=auto", report.kernels),
            _availability("Coders", report.coders),
            _availability("Extras", report.extras),
            f"Missing:\n{missing}" if missing else "nothing is missing",
        ]
    )


def _availability(title: str, rows: Sequence[Availability]) -> str:
    cells = [(row.name, "yes" if row.available else "no", row.note) for row in rows]
    return table(title, ("", "here", ""), cells, text_columns=3)


def _bytes(number: int) -> str:
    """Bytes in decimal gigabytes."""
    return f"{number / 1e9:,.1f} GB"


def _gpu(report: MachineReport, i: int) -> str:
    gpu = report.gpus[i]
    dtype = "bfloat16" if gpu.bfloat16 else "no bfloat16"
    return f"{gpu.name}, {_bytes(gpu.memory_bytes)}, compute capability {gpu.capability}, {dtype}"
