"""Install wheels from a folder into a separate folder, without a network."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path


def install(wheels: Path, target: Path) -> str:
    """Install all wheels of a folder into `target`; returns the way it was done.

    Without pip, wheels are unzipped. Raises `SystemExit` if the folder has no wheel or pip fails.
    """
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise SystemExit(f"--wheels: there is no *.whl in {wheels}")
    target.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode == 0:
        offline = ["install", "--no-index", "--no-deps", "--upgrade", "--quiet", "--target", str(target)]
        done = subprocess.run([*pip, *offline, *map(str, found)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"--wheels: {done.stderr.strip().splitlines()[-1]}")
        return "pip"
    for path in found:
        with zipfile.ZipFile(path) as wheel:
            wheel.extractall(target)
    return "unzipped, since pip is not installed"
