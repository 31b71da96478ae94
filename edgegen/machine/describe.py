"""What this computer is: processor, memory, disks and the variables that matter to edgegen."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from .. import __version__
from ..core.offline import OFFLINE
from .packages import version

# What decides the speed of INT8 and reduced precision on x86 and ARM.
CPU_FLAGS = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
)


def machine() -> dict[str, Any]:
    """Everything but packages and runtimes; sizes in bytes."""
    pages = os.sysconf("SC_PAGE_SIZE")
    model = _cpu_line("model name") or platform.machine()
    return {
        "edgegen": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "system": platform.platform(),
        "cpu": {"model": model, "usable": len(os.sched_getaffinity(0)), "flags": cpu_flags()},
        "memory_bytes": {
            "total": pages * os.sysconf("SC_PHYS_PAGES"),
            "free": pages * os.sysconf("SC_AVPHYS_PAGES"),
        },
        "disk_bytes": {
            place: shutil.disk_usage(place).free
            for place in (".", "/tmp", "/dev/shm")
            if os.path.isdir(place)
        },
        "network": {name: os.environ.get(name, "") for name in sorted(OFFLINE)},
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith("EDGEGEN_")
        },
        "encoding": {"stdout": sys.stdout.encoding, "files": sys.getfilesystemencoding()},
    }


def measured_on() -> dict[str, Any]:
    """What a manifest says of the machine that its figures are from; nothing that tells whose it
    is.
    """
    return {
        "cpu": _cpu_line("model name") or platform.machine(),
        "flags": cpu_flags(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "system": platform.system(),
    }


def cpu_flags() -> list[str]:
    """Which of CPU_FLAGS the kernel reports; empty where it reports none."""
    present = (_cpu_line("flags") or _cpu_line("Features")).split()
    return [flag for flag in CPU_FLAGS if flag in present]


def _cpu_line(key: str) -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text(errors="replace").splitlines() if info.is_file() else ():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
