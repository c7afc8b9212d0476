"""Limits of a process that runs foreign code: no network, no view of some paths, and a limit of memory.

Linux only, by a user namespace, which works without privileges where the system allows it. This module imports nothing
but the standard library: a process that has threads, as numpy starts them, cannot enter a user namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

NEW_NAMESPACES = 0x10000000 | 0x00020000 | 0x40000000  # CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET
PRIVATE_MOUNTS, BIND, READ_ONLY = 0x4000 | 0x40000, 0x1000, 0x1  # MS_REC | MS_PRIVATE, MS_BIND, MS_RDONLY
NO_NEW_PRIVILEGES, DROP_CAPABILITY = 38, 24  # PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP
LAST_CAPABILITY = 40
CAPABILITIES_VERSION = 0x20080522


def apply_limits(hidden: Sequence[str], memory: int) -> dict[str, str]:
    """Limit this process and its children. Returns for "network", "files" and "memory" why a limit is not in force.

    hidden: existing files and folders that are empty from now on. memory: bytes of data; 0 for no limit.
    """
    return {**_isolate(hidden), **_limit_memory(memory)}


def _limit_memory(memory: int) -> dict[str, str]:
    if not memory:
        return {"memory": "no limit was asked for"}
    if not sys.platform.startswith("linux"):
        return {"memory": f"not possible on {sys.platform}"}
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    except (OSError, ValueError) as error:
        return {"memory": str(error)}
    return {}


def _isolate(hidden: Sequence[str]) -> dict[str, str]:
    if not sys.platform.startswith("linux"):
        reason = f"not possible on {sys.platform}"
        return {"network": reason, "files": reason}
    user, group = os.getuid(), os.getgid()
    try:
        _call("unshare", NEW_NAMESPACES)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    except OSError as error:
        reason = f"the system does not allow a user namespace ({error.strerror})"
        return {"network": reason, "files": reason}
    result = dict[str, str]()
    try:
        _call("mount", None, b"/", None, PRIVATE_MOUNTS, None)
        for path in hidden:
            _hide(os.path.realpath(path))
    except OSError as error:
        result["files"] = f"they cannot be hidden ({error.strerror})"
    _drop_privileges()
    return result


def _hide(path: str) -> None:
    """Cover a folder by an empty one, a file by an empty device."""
    if Path(path).is_dir():
        _call("mount", b"none", os.fsencode(path), b"tmpfs", READ_ONLY, b"size=4k")
    else:
        _call("mount", b"/dev/null", os.fsencode(path), None, BIND, None)


def _drop_privileges() -> None:
    """Give up what would allow to undo the mounts."""
    _call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    for capability in range(LAST_CAPABILITY + 1):
        with contextlib.suppress(OSError):  # older kernels have fewer
            _call("prctl", DROP_CAPABILITY, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0)
    _call("capset", header, (ctypes.c_uint32 * 6)())


def _call(name: str, *arguments: object) -> None:
    """Call a function of the C library. Raises `OSError` if it fails."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def _write(path: str, text: str) -> None:
    Path(path).write_text(text)


@contextlib.contextmanager
def only_standard_error() -> Iterator[tuple[int, int]]:
    """Descriptors of standard input and output for messages; whatever else is printed goes to standard error."""
    source, target = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    yield source, target
