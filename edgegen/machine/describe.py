"""What this computer is: processor, memory, disks and the variables that matter to edgegen."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from typing import Any

from ..core.cpu import cpu_flags, cpu_model
from ..core.offline import OFFLINE
from ..version import __version__
from .packages import version


def machine() -> dict[str, Any]:
    """Everything but packages and runtimes; sizes in bytes."""
    pages = os.sysconf("SC_PAGE_SIZE")
    return {
        "edgegen": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "system": platform.platform(),
        "cpu": {"model": cpu_model(), "usable": len(os.sched_getaffinity(0)), "flags": cpu_flags()},
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
        "cpu": cpu_model(),
        "flags": cpu_flags(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "system": platform.system(),
    }
