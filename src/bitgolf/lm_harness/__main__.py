"""`python -m bitgolf.lm_harness`: the command `lm_eval` with the model `bitgolf`."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


def main() -> None:
    """Run the command of the harness, or say what is missing."""
    try:
        import_module("bitgolf.lm_harness.model")  # registers the model
        harness: Any = import_module("lm_eval.__main__")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        sys.exit("the harness needs the package lm_eval\n  hint: pip install 'bitgolf[lm-eval]'")
    harness.cli_evaluate()


if __name__ == "__main__":
    main()
