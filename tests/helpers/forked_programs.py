"""Python programs in forked processes, which start without imports; the programs that they start are forked too."""

from __future__ import annotations

import inspect
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from helpers.forked import ForkedProcess

SETTINGS = tuple(inspect.signature(subprocess.Popen._execute_child).parameters)[2:]  # type: ignore[attr-defined]
"""Names of the settings that `Popen` passes on after `self` and the command; they differ between versions of Python."""


def run_forked(*words: str, environment: Mapping[str, str] = MappingProxyType({})) -> subprocess.CompletedProcess[str]:
    """Run `bitgolf WORDS` in a process of its own; returns exit status, standard output and standard error.

    environment: more variables.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "stdout")
        done = ForkedProcess(run_python, ["-m", "bitgolf", *words], output, environment=environment).finish()
        return subprocess.CompletedProcess(words, done.status, output.read_text(), done.output)


def run_python(arguments: Sequence[str], output: Path | None = None) -> None:
    """Run a program as `python ARGUMENTS` would: `-m MODULE …`, `-c CODE …` or `FILE.py …`. For `ForkedProcess`.

    output: file for standard output; by default it goes where standard error goes.
    """
    if output:
        with output.open("wb") as file:
            os.dup2(file.fileno(), sys.stdout.fileno())
    subprocess.Popen = ForkingPopen  # type: ignore[misc]
    _run(arguments)


class ForkingPopen(subprocess.Popen[Any]):
    """`subprocess.Popen` that forks this process for `python ARGUMENTS`, as in `run_python`.

    Other commands are executed. The process must have no other thread that holds a lock: a `ForkedProcess` has none.
    """

    def _execute_child(self, args: Any, *settings: Any) -> None:
        words = list(map(str, args)) if isinstance(args, list | tuple) else []
        program = [word for word in words[1:] if word != "-u"]
        if words[:1] != [sys.executable] or not (program[0] in ("-m", "-c") or program[0].endswith(".py")):
            super()._execute_child(args, *settings)  # type: ignore[misc]
            return
        given = dict(zip(SETTINGS, settings, strict=True))
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _become(program, given)
        vars(self)["_child_created"] = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[name] for name in pipes))  # type: ignore[attr-defined]


def _become(program: Sequence[str], given: Mapping[str, Any]) -> NoReturn:
    """Continue this forked process as the program, with the settings of `Popen`."""
    try:
        _apply(given)
        _run(program)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        status = 130
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _apply(given: Mapping[str, Any]) -> None:
    """Redirect, close and set what `Popen` would before it executes a command."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for standard, name in enumerate(("p2cread", "c2pwrite", "errwrite")):
        if given[name] not in (-1, standard):
            os.dup2(given[name], standard)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if given["start_new_session"]:
        os.setsid()
    if given["cwd"]:
        os.chdir(given["cwd"])
    if given["env"] is not None:
        os.environ.clear()
        os.environ.update(given["env"])


def _run(program: Sequence[str]) -> None:
    """Run the program that these arguments of Python name, with the module path of the environment."""
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = list(program[1:] if program[0] == "-m" else program)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*found in sys.modules", category=RuntimeWarning)
        if program[0] == "-m":
            runpy.run_module(program[1], run_name="__main__", alter_sys=True)
        elif program[0] == "-c":
            sys.argv = ["-c", *program[2:]]
            exec(program[1], {"__name__": "__main__"})
        else:
            sys.path.insert(0, str(Path(program[0]).parent))
            runpy.run_path(program[0], run_name="__main__")
