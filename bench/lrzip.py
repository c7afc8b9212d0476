"""lrzip as a yardstick: how many bytes it would take. Nothing is ever shipped in its format."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from bitgolf.errors import BitgolfError


def lrzip_bytes(data: bytes) -> int | None:
    """The size of `data` after `lrzip -z -L 9` (ZPAQ), its container included; None where lrzip is not installed."""
    program = shutil.which("lrzip")
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "data", Path(folder) / "packed"
        plain.write_bytes(data)
        words = [program, "-q", "-z", "-L", "9", "-o", str(packed), str(plain)]
        done = subprocess.run(words, capture_output=True, check=False)
        if done.returncode or not packed.is_file():
            raise BitgolfError(f"lrzip failed ({done.stderr.decode(errors='replace'):.200})", where="lrzip")
        return packed.stat().st_size
