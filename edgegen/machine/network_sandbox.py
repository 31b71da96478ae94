"""Seal a process off the network and record what in it wanted to reach it: Python through an audit
hook, native code through its death.

The kernel ends the process when code of any library opens an internet socket (seccomp, which needs
no privilege); what Python code wants is recorded and refused before that.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import resource
import socket
import struct
import sys
from pathlib import Path
from typing import Any

FAMILIES = (socket.AF_INET, socket.AF_INET6)
LOCAL = (None, "", "localhost", "127.0.0.1", "::1")
# AUDIT_ARCH_* and the number of socket(2)
MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # classic BPF
_ALLOW, _KILL = 0x7FFF0000, 0x80000000  # SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2  # arguments of prctl(2)


def seal(attempts: Path) -> None:
    """Seal this process from here on; `attempts` gets a line for each wish of Python code.

    Native code is watched where unwatched() returns None.
    """

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if what := _wish(event, arguments):
            with open(attempts, "a", encoding="utf-8") as f:
                f.write(f"{_who()} {what}\n")
            raise OSError(errno.ENETUNREACH, "edgegen sealed this process off the network")

    sys.addaudithook(hook)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core file, because its death is expected
    if unwatched() is None:
        _filter(*MACHINES[platform.machine()])


def unwatched() -> str | None:
    """Return why native code cannot be watched on this machine; None if it can."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        return f"native code cannot be watched on {sys.platform} {platform.machine()}"
    status = Path("/proc/self/status")
    known = status.is_file() and "Seccomp:" in status.read_text(errors="replace")
    return None if known else "this kernel has no seccomp: native code is not watched"


def _wish(event: str, arguments: tuple[Any, ...]) -> str:
    """Return in words what Python is about to do to the network; "" if it is something else."""
    if event == "socket.__new__" and arguments[1] in FAMILIES:
        return "opens an internet socket"
    if (
        event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
        and arguments[0] not in LOCAL
    ):
        return f"looks up {str(arguments[0])[:100]}"
    return ""


def _who() -> str:
    """Return the module outside Python's own library that is running."""
    frame = sys._getframe(2)
    name = "?"
    while frame is not None:
        name = frame.f_globals.get("__name__", "?")
        if name.partition(".")[0] not in sys.stdlib_module_names and name != __name__:
            return name
        frame = frame.f_back  # type: ignore[assignment]
    return name


class _Program(ctypes.Structure):
    """Lay out struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def _filter(architecture: int, number: int) -> None:
    """Install a filter by which socket(AF_INET or AF_INET6, ...) ends the process. Raises OSError
    if the kernel refuses it.
    """
    steps = (
        # calls of another architecture have other numbers and pass
        (_LOAD, 0, 0, 4),
        (_EQUAL, 0, 5, architecture),
        (_LOAD, 0, 0, 0),
        (_EQUAL, 0, 3, number),
        (_LOAD, 0, 0, 16),
        (_EQUAL, 2, 0, FAMILIES[0]),
        (_EQUAL, 1, 0, FAMILIES[1]),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _KILL),
    )
    code = b"".join(struct.pack("HBBI", operation, yes, no, k) for operation, yes, no, k in steps)
    held = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(steps), ctypes.cast(held, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in (
        (_NO_NEW_PRIVILEGES, 1, 0, 0, 0),
        (_SECCOMP, _FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), "the kernel refuses a filter on system calls")
