"""Size of data compressed by lrzip, for comparison. No artifact uses its format."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from bitgolf.errors import BitgolfError


def lrzip_bytes(data: bytes) -> int | None:
    """Bytes of `data` compressed by `lrzip -z -L 9` (ZPAQ), container included; None if lrzip is not installed.

    Raises `BitgolfError` if lrzip fails.
    """
    program = shutil.which("lrzip")
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "data", Path(folder) / "packed"
        plain.write_bytes(data)
        words = [program, "-q", "-z", "-L", "9", "-o", str(packed), str(plain)]
        done = subprocess.run(words, capture_output=True, check=False)
        if done.returncode or not packed.is_file():
            message = f"lrzip failed with status {done.returncode} ({done.stderr.decode(errors='replace'):.200})"
            raise BitgolfError(message, where=program)
        return packed.stat().st_size
