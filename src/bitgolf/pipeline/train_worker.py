"""One training process that can measure calibration beforehand: what `bitgolf run` starts N times under torchrun.

`python -m bitgolf.pipeline.train_worker FOLDER DATA SEED RESUME DEVICE` is `bitgolf.pipeline.training`, which itself knows no calibration.
"""

from __future__ import annotations

import sys

from bitgolf.pipeline.calibration import measure_reserve
from bitgolf.pipeline.training import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], measure_reserve))
