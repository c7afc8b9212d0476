"""Portable arithmetic on an emulated processor: Python, torch and numba run under qemu, and give the fixture bit for bit.

Emulation is slow, so this belongs to `make test-all`, which installs the Debian package qemu-user.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import portable_fixture

EMULATOR = "qemu-x86_64"


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("processor", ["Nehalem", "Haswell"])
def test_an_emulated_processor_gives_the_fixture(processor: str, tmp_path: Path) -> None:
    """Nehalem has no AVX. Haswell has AVX2 and fused operations, which qemu computes in software.

    The machine code of the kernels is compiled for the emulated processor, in an empty cache.
    """
    emulator = shutil.which(EMULATOR)
    if emulator is None or platform.machine() != "x86_64":
        pytest.skip(f"needs {EMULATOR} (Debian: qemu-user) on an x86-64 processor")
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
