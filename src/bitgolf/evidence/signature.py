"""Signatures of bundles by an SSH key of the user, made and checked by `ssh-keygen -Y` (OpenSSH 8.2 or later)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from bitgolf.errors import BitgolfError, UsageError

NAMESPACE = "bitgolf"
SUFFIX = ".sig"


def sign_file(path: Path, key: Path) -> Path:
    """Sign a file with a private key, or a public key whose private one an agent has; return the signature's path.

    `ssh-keygen` asks for a passphrase itself. Raises `UsageError` if there is no such key, and `BitgolfError` with the
    tool's message if it fails.
    """
    if not key.is_file():
        raise UsageError("there is no such key", where=str(key), hint="`ssh-keygen -t ed25519` makes one")
    target = path.with_name(path.name + SUFFIX)
    target.unlink(missing_ok=True)
    _run("-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(path))
    return target


def signer_of(path: Path) -> str:
    """Return the fingerprint of the key that signed a file, as the signature beside it says, after checking it.

    Raises `BitgolfError` if the signature does not fit the file.
    """
    said = _run("-Y", "check-novalidate", "-n", NAMESPACE, "-s", str(path) + SUFFIX, stdin=path)
    return said.strip().removeprefix('Good "bitgolf" signature with ') or "unknown key"


def check_signer(path: Path, signers: Path, identity: str) -> None:
    """Raise `BitgolfError` unless a file is signed by `identity`. signers: an `allowed_signers` file of ssh-keygen."""
    if not signers.is_file():
        raise UsageError("there is no such file", where=str(signers), hint="see ALLOWED SIGNERS in `man ssh-keygen`")
    _run("-Y", "verify", "-f", str(signers), "-I", identity, "-n", NAMESPACE, "-s", str(path) + SUFFIX, stdin=path)


def _run(*words: str, stdin: Path | None = None) -> str:
    tool = shutil.which("ssh-keygen")
    if tool is None:
        raise BitgolfError(
            "ssh-keygen is not installed, so signatures are neither made nor checked", hint="install OpenSSH"
        )
    data = stdin.read_bytes() if stdin else None
    done = subprocess.run([tool, *words], input=data, capture_output=True, check=False)
    if done.returncode:
        message = (done.stderr + done.stdout).decode(errors="replace").strip().splitlines()
        raise BitgolfError(f"ssh-keygen: {message[-1] if message else 'failed'}", where=words[-1])
    return (done.stdout + done.stderr).decode(errors="replace")
