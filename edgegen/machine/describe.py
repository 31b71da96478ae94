"""Describe this computer: processor, memory, disks and the variables that matter to edgegen."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from ..core.cpu import cpu_flags, cpu_model
from ..core.offline import OFFLINE
from ..version import __version__
from .packages import version

SHARED = "/dev/shm"
LEAST_SHARED, LEAST_DISK = 64 << 20, 1 << 30  # bytes


def machine() -> dict[str, Any]:
    """Return everything except packages and runtimes; sizes are in bytes."""
    pages = os.sysconf("SC_PAGE_SIZE")
    found = {
        "edgegen": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "system": platform.platform(),
        "cpu": {"model": cpu_model(), "usable": len(os.sched_getaffinity(0)), "flags": cpu_flags()},
        "shared_memory_bytes": _shared_memory(),
        "memory_bytes": {
            "total": pages * os.sysconf("SC_PHYS_PAGES"),
            "free": pages * os.sysconf("SC_AVPHYS_PAGES"),
        },
        "disk_bytes": {
            place: shutil.disk_usage(place).free
            for place in (".", "/tmp", SHARED)
            if os.path.isdir(place)
        },
        "network": {name: os.environ.get(name, "") for name in sorted(OFFLINE)},
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith("EDGEGEN_")
        },
        "encoding": {"stdout": sys.stdout.encoding, "files": sys.getfilesystemencoding()},
    }
    return {**found, "remarks": remarks(found)}


def _shared_memory() -> dict[str, int] | None:
    """Return the size of /dev/shm, through which libraries pass data between threads and processes;
    None if it does not exist.
    """
    try:
        usage = shutil.disk_usage(SHARED)
    except OSError:
        return None
    return {"total": usage.total, "free": usage.free}


def remarks(machine: Mapping[str, Any]) -> list[str]:
    """Return remarks on properties of this machine that are likely to appear as failures of
    something else.
    """
    shared, said = machine["shared_memory_bytes"], list[str]()
    if shared is None or shared["total"] < LEAST_SHARED:
        size = "is not there" if shared is None else f"holds {shared['total'] / 1e6:.3g} MB"
        said.append(
            f"{SHARED} {size}: libraries that compute on several threads or processes may end "
            "without a word; a container gets more with --shm-size 256m"
        )
    for place, free in machine["disk_bytes"].items():
        if place != SHARED and free < LEAST_DISK:
            said.append(f"{place} has {free / 1e6:.0f} MB left: an export may need 1 GB")
    return said


def measured_on() -> dict[str, Any]:
    """Return what a manifest says of the machine that its figures are from, but nothing that tells
    whose it is.
    """
    return {
        "cpu": cpu_model(),
        "flags": cpu_flags(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "system": platform.system(),
    }
