"""Portable arithmetic on an emulated processor: Python, torch and numba run under qemu, and give the fixture bit for bit.

Emulation is slow, so this belongs to `make test-all`, which installs the Debian package qemu-user and makes
`.venv-arm`, an environment for ARM.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread

import constriction
import numpy as np
import pytest

import bitgolf
from helpers import portable_fixture, remote_range_coder

TESTS = Path(__file__).parents[1]
ARM = Path(os.environ.get("BITGOLF_ARM_ENVIRONMENT", TESTS.parent / ".venv-arm"))
"""A folder that `tests/arm_environment.sh` made."""


def _emulator(name: str) -> str:
    if not (found := shutil.which(name)):
        pytest.skip(f"needs {name} (Debian: qemu-user)")
    return found


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("processor", ["Nehalem", "Haswell"])
def test_an_emulated_processor_gives_the_fixture(processor: str, tmp_path: Path) -> None:
    """Nehalem has no AVX. Haswell has AVX2 and fused operations, which qemu computes in software.

    The machine code of the kernels is compiled for the emulated processor, in an empty cache.
    """
    emulator = _emulator("qemu-x86_64")
    if platform.machine() != "x86_64":
        pytest.skip("needs Python and torch for x86-64")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "XDG_CACHE_HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_CORETYPE": processor,  # numpy's OpenBLAS takes AVX for granted on some processors without it
    }
    words = [emulator, "-cpu", processor, sys.executable, "-m", portable_fixture.__name__, "1"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [{"Nehalem": "DEFAULT", "Haswell": "AVX2"}[processor]]


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_an_emulated_arm_processor_gives_the_fixture(tmp_path: Path) -> None:
    """All but the range coder runs there, in an empty cache: constriction has no wheel for Linux on ARM."""
    emulator = _emulator("qemu-aarch64")
    if not (ARM / "ready").exists():
        pytest.skip(f"needs Python and torch for ARM in {ARM}: tests/arm_environment.sh {sys.executable} {ARM}")
    folders = Path(bitgolf.__file__).parents[1], TESTS, ARM / "packages"
    environment = {
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "XDG_CACHE_HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "PATH": os.defpath,
    }
    here, there = Pipe()
    words = [emulator, "-L", str(ARM / "root"), str(ARM / "root/usr/bin/python3")]
    words += ["-m", remote_range_coder.__name__, str(there.fileno())]
    output = tmp_path / "output"
    with output.open("w") as file:
        process = subprocess.Popen(words, env=environment, pass_fds=[there.fileno()], stdout=file, stderr=file)
    try:
        there.close()
        remote_range_coder.serve(here)
        process.wait()
    finally:
        process.kill()
        here.close()
    assert process.returncode == 0, output.read_text()
    assert output.read_text().split() == ["aarch64", "DEFAULT"]


def test_a_remote_range_coder_is_that_of_constriction() -> None:
    here, there = Pipe()
    server = Thread(target=remote_range_coder.serve, args=[here])
    server.start()
    own, remote = constriction.stream, remote_range_coder.constriction_of(there).stream  # pyright: ignore[reportAttributeAccessIssue]
    tables = np.array([[0.25, 0.75], [0.5, 0.5], [0.125, 0.875]], np.float32)
    symbols = np.array([0, 1, 1], np.int32)
    words = []
    for stream in own, remote:
        encoder = stream.queue.RangeEncoder()
        encoder.encode(symbols, stream.model.Categorical(perfect=False), tables)
        encoder.encode(symbols, stream.model.Categorical(tables[0], lazy=False, perfect=False))
        words.append(encoder.get_compressed())
    assert words[0].tolist() == words[1].tolist()
    decoder = remote.queue.RangeDecoder(words[0])
    assert decoder.decode(remote.model.Categorical(perfect=False), tables).tolist() == symbols.tolist()
    with pytest.raises(AttributeError, match="no_such_call"):  # errors come back
        decoder.no_such_call()
    there.close()
    server.join()
