"""Run the command line in the process of the tests, without importing torch again."""

from __future__ import annotations

import io
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from subprocess import CompletedProcess

import pytest

from bitgolf.cli import main


def run_command(*words: str) -> CompletedProcess[str]:
    """Run `bitgolf WORDS` in this process; returns exit status and output. An exception gives exit status 1.

    Lines are not broken, unless --width is given.
    """
    output, errors, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(sys, "argv", ["bitgolf", *words])
        patch.setenv("COLUMNS", "10000")
        try:
            main()
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        except Exception:
            traceback.print_exc()
            status = 1
    return CompletedProcess(words, status, output.getvalue(), errors.getvalue())
