"""The modules of `bench/` are no package: they are found beside the command that uses them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
