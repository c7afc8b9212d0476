"""`bitgolf doctor` without a run: what this machine can do, and what is missing for what."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

import msgspec
import torch

from bitgolf import __version__
from bitgolf.config.registry import lookup, part_modules
from bitgolf.errors import BitgolfError
from bitgolf.kernels.flash_attention import MODULES as FLASH_ATTENTION_MODULES
from bitgolf.pack.coders import Coder
from bitgolf.pipeline.latest_run import RUNS_FOLDER
from bitgolf.quantize.codecs.codec import Codec
from bitgolf.report.environment import CPU_FILE, cpu_name
from bitgolf.runtime.device import select_device
from bitgolf.runtime.disk_space import free_bytes
from bitgolf.runtime.ordered_map import available_cores
from bitgolf.score.method_selection import methods_by_name

FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "asimdhp", "sve")
"""Flags of a CPU that the kernels of PyTorch or numba use, as /proc/cpuinfo names them."""
HOPPER = (9, 0)
PACKAGES = ("torch", "numpy", "numba", "sentencepiece", "safetensors", "constriction", "brotli", "zstandard", "triton")
EXTRAS = {
    "cluster": ("ray", "data make --cluster, sweep --cluster"),
    "hub": ("huggingface_hub", "data fetch, to-hf --push"),
    "lm-eval": ("lm_eval", "python -m bitgolf.lm_harness"),
    "optuna": ("optuna", "sweep --search OptunaSearch"),
    "parquet": ("pyarrow", "text in Parquet files"),
    "tensorboard": ("tensorboard", "--track tensorboard:FOLDER"),
    "tokenizers": ("tokenizers, tiktoken", "tokenizer.json and tiktoken files"),
    "trackio": ("trackio", "--track trackio:PROJECT"),
    "transformers": ("transformers", "loading what to-hf writes"),
    "wandb": ("wandb", "--track wandb:PROJECT"),
}
"""Extra of the distribution -> packages, and what needs them."""


class CpuReport(msgspec.Struct, frozen=True, kw_only=True):
    """The processor. cores: those that this process may use. features: of `FEATURES`. memory_bytes: of the machine."""

    model: str
    cores: int
    threads: int
    features: list[str]
    memory_bytes: int


class GpuReport(msgspec.Struct, frozen=True, kw_only=True):
    """A CUDA device. capability: its compute capability, such as 9.0."""

    name: str
    memory_bytes: int
    capability: str
    bfloat16: bool


class Availability(msgspec.Struct, frozen=True):
    """Whether something can be used here. note: what it is for, or why it cannot be used."""

    name: str
    available: bool
    note: str = ""


class MachineReport(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `doctor --json` without a run.

    driver: version of NVIDIA's driver, cuda: of CUDA in PyTorch, both None without it. device: what `--device auto`
    selects. kernels: those that `train.kernels` tries on a GPU. machine_code_folder: for functions compiled by numba,
    None if there is no home folder. notes: what is missing for what.
    """

    versions: dict[str, str]
    cpu: CpuReport
    gpus: list[GpuReport]
    driver: str | None
    cuda: str | None
    device: str
    kernels: list[Availability]
    coders: list[Availability]
    codecs: list[str]
    methods: list[str]
    extras: list[Availability]
    runs_folder: str
    free_bytes: int
    machine_code_folder: str | None
    notes: list[str]


def describe_machine(device: str = "auto") -> MachineReport:
    """Describe this machine. device: kind of device, as in `select_device`, which refuses one that is not there."""
    gpus, extras, folder = _gpus(), list(_extras()), _machine_code_folder()
    kernels, coders, driver = list(_kernels()), list(_coders()), _driver()
    free = free_bytes(RUNS_FOLDER)
    return MachineReport(
        versions=_versions(),
        cpu=_cpu(),
        gpus=gpus,
        driver=driver,
        cuda=torch.version.cuda,
        device=select_device(device_type=device).description,
        kernels=kernels,
        coders=coders,
        codecs=_parts_of(Codec, "quantize"),
        methods=list(methods_by_name()),
        extras=extras,
        runs_folder=str(RUNS_FOLDER.absolute()),
        free_bytes=free,
        machine_code_folder=str(folder) if folder else None,
        notes=list(_notes(gpus, driver, coders, extras, folder, free)),
    )


def _versions() -> dict[str, str]:
    found = {"bitgolf": __version__, "python": platform.python_version(), "system": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _cpu() -> CpuReport:
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", _read(CPU_FILE), re.M)
    words = set(flags[1].split()) if flags else set()
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # not known on this system
        memory = 0
    return CpuReport(
        model=cpu_name() or platform.machine(),
        cores=available_cores(),
        threads=torch.get_num_threads(),
        features=[name for name in FEATURES if name in words],
        memory_bytes=memory,
    )


def _gpus() -> list[GpuReport]:
    if not torch.cuda.is_available():
        return []
    found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [
        GpuReport(
            name=gpu.name,
            memory_bytes=gpu.total_memory,
            capability=f"{gpu.major}.{gpu.minor}",
            bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
        )
        for gpu in found
    ]


def _driver() -> str | None:
    """Version of NVIDIA's kernel driver, None if there is none."""
    found = re.search(r"Module.*?\s(\d+\.[\d.]+)", _read(Path("/proc/driver/nvidia/version")))
    return found[1] if found else None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _is_installed(module: str) -> bool:
    try:
        return util.find_spec(module) is not None
    except (ImportError, ValueError):  # a package above the module is missing or broken
        return False


def _kernels() -> Iterator[Availability]:
    """What `train.kernels=auto` tries instead of plain PyTorch. Whether one is used depends on the model and its speed."""
    cuda, triton = torch.cuda.is_available(), "" if _is_installed("triton") else "triton is not installed"
    capability = torch.cuda.get_device_capability() if cuda else (0, 0)
    older = "" if capability >= HOPPER else f"needs compute capability 9.0, this is {capability[0]}.{capability[1]}"
    causes = {
        f"attention: FlashAttention {version}": "" if _is_installed(module) else f"{module} is not installed"
        for version, module in FLASH_ATTENTION_MODULES.items()
    }
    causes |= dict.fromkeys(
        ("attention: FlashAttention of PyTorch", "attention: cuDNN", "attention: FlexAttention"), ""
    )
    causes |= dict.fromkeys(("softcapped cross-entropy", "MLP", "exclusive self-attention with its gate"), triton)
    causes["MLP with tensor memory accelerator"] = triton or older
    for name, cause in causes.items():
        cause = cause if cuda else "no CUDA device"
        yield Availability(name, not cause, cause or "tried for parity and speed before training")


def _parts_of(base: type, package: str) -> list[str]:
    names = [name for name, module in part_modules().items() if module.startswith(f"bitgolf.{package}.")]
    return sorted(name for name in names if issubclass(lookup(name), base))


def _coders() -> Iterator[Availability]:
    for name in _parts_of(Coder, "pack"):
        try:
            lookup(name)().self_test()
            yield Availability(name, True)
        except TypeError:  # a coder of coders, which has no defaults
            continue
        except BitgolfError as error:
            yield Availability(name, False, f"{error.message}: {error.hint}")


def _extras() -> Iterator[Availability]:
    for extra, (packages, purpose) in EXTRAS.items():
        missing = [name for name in packages.split(", ") if not _is_installed(name)]
        yield Availability(extra, not missing, f"{packages}: for {purpose}")


def _machine_code_folder() -> Path | None:
    from bitgolf.runtime.cache_files import cache_folder

    return cache_folder()


def _notes(
    gpus: list[GpuReport],
    driver: str | None,
    coders: list[Availability],
    extras: list[Availability],
    folder: Path | None,
    free: int,
) -> Iterator[str]:
    """What is missing for what, and what to do."""
    if not gpus and driver:
        yield f"NVIDIA's driver {driver} is there, but PyTorch finds no CUDA device: install PyTorch with CUDA"
    elif not gpus:
        yield "no CUDA device: training and scoring use the CPU, which suits recipes such as quickstart"
    for coder in coders:
        if not coder.available:
            yield f"the coder {coder.name} cannot be used: {coder.note}"
    for extra in extras:
        if not extra.available:
            yield f"{extra.note.partition(': for ')[2]} needs: pip install 'bitgolf[{extra.name}]'"
    parent = next((p for p in (folder, *folder.parents) if p.exists()), None) if folder else None
    if parent is None or not os.access(parent, os.W_OK):
        yield "machine code cannot be kept: set XDG_CACHE_HOME to a folder that you may write to"
    if free < 5 * 10**9:
        yield f"little space is left for runs: {free:,} bytes; `run --out` can name a folder on another disk"
