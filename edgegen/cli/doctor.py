"""`edgegen doctor`: the truth about this machine, each runtime by a session that really ran."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import OFFLINE, __version__
from ..errors import RuntimeMissing
from ..workflows import generators
from . import exit_contract, output

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
JUDGE = "reference"  # executes what runtimes are held against; no device runs on it
# what else a runtime that is here is asked
MORE = {"onnxruntime": ("providers", "edgegen.machine.providers:tried")}
REMARKS = {
    "tensorrt-rtx": "INT8 convolutions build, but NVIDIA's matrix lists INT8 for weight-only GEMM: "
    "their speed is unproven "
    "until a GPU shows it.",
}


def doctor(
    airgap: Annotated[
        bool, typer.Option("--airgap", help="Prove that nothing that runs here wants the network.")
    ] = False,
    bundle: Annotated[
        Path | None, typer.Option(help="Also make an image of this bundle on each runtime.")
    ] = None,
    gpu_suite: Annotated[
        Path | None,
        typer.Option(help="A bundle to measure on the GPU here; writes gpu-report.json."),
    ] = None,
    json: output.Json = False,
) -> None:
    """What this machine has and which runtimes really run here; exit 5 if none does, or something
    installed is broken.
    """
    from ..machine import packages as imports
    from ..machine.airgap import LISTEN, report
    from ..machine.child_process import ask

    if bundle is not None:
        generators.open_bundle(str(bundle))  # a damaged one is no fault of any runtime
    versions = imports.versions()
    broken, runtimes, attempts = _tried(list(versions), bundle, LISTEN if airgap else None)
    for name, (key, question) in MORE.items():
        if runtimes[name]["state"] != "missing":
            answer = ask(question, listen=0 if airgap else None)
            attempts[name] += answer.attempts
            runtimes[name][key] = answer.found or {"any": answer.why}
    found = {**machine(), "packages": versions, "broken": broken, "runtimes": runtimes}
    if airgap:
        found["airgap"] = report(attempts)
    if gpu_suite is not None:
        from ..workflows.gpu_suite import REPORT, show, suite

        found["gpu_suite"] = suite(generators.open_bundle(str(gpu_suite)), Path(REPORT))
    output.result("doctor", found)
    _show(found)
    if gpu_suite is not None:
        show(found["gpu_suite"])
    _judge(found)


def _tried(
    packages: list[str], bundle: Path | None, listen: float | None
) -> tuple[dict[str, str], dict[str, Any], dict[str, tuple[str, ...]]]:
    """Packages that do not import, findings by runtime, and who wanted the network; sealed
    processes listen side by side.
    """
    from concurrent.futures import ThreadPoolExecutor
    from functools import partial

    from edgegen.export import RUNTIMES

    from ..machine import packages as imports
    from ..machine.probe import isolated

    place = str(bundle.absolute()) if bundle else ""
    jobs: dict[str, Callable[[], tuple[Any, tuple[str, ...]]]] = {
        "packages": lambda: imports.broken(packages, listen)
    }
    for name in RUNTIMES:
        jobs[name] = partial(isolated, name, listen, "" if name == JUDGE else place)
    with (
        output.progress("trying packages and runtimes", len(jobs)) as advance,
        ThreadPoolExecutor(1 if listen is None else len(jobs)) as pool,
    ):
        running = {name: pool.submit(job) for name, job in jobs.items()}
        answers = {}
        for name, future in running.items():
            answers[name] = future.result()
            advance(1)
    attempts = {name: wishes for name, (_, wishes) in answers.items()}
    return (
        answers.pop("packages")[0],
        {name: finding for name, (finding, _) in answers.items()},
        attempts,
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
            name: os.environ[name] for name in exit_contract.ENVIRONMENT if name in os.environ
        },
        "encoding": {"stdout": sys.stdout.encoding, "files": sys.getfilesystemencoding()},
    }


def measured_on() -> dict[str, Any]:
    """What a manifest says of the machine that its figures are from; nothing that tells whose it
    is.
    """
    from ..machine.packages import version

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


def _show(found: dict[str, Any]) -> None:
    from ..machine.packages import NEIGHBOURS
    from ..machine.providers import RAN

    cpu, memory, broken = found["cpu"], found["memory_bytes"], found["broken"]
    rows = [
        ["edgegen", found["edgegen"]],
        ["python", f"{found['python']['version']} ({found['python']['executable']})"],
        ["system", found["system"]],
        [
            "cpu",
            f"{cpu['model']}, {cpu['usable']} usable; "
            f"{' '.join(cpu['flags']) or 'no INT8 instructions reported'}",
        ],
        ["memory", f"{memory['free'] / 1e9:.1f} of {memory['total'] / 1e9:.1f} GB free"],
        [
            "disk",
            ", ".join(
                f"{free / 1e9:.1f} GB free in {place}"
                for place, free in found["disk_bytes"].items()
            ),
        ],
        *(
            [
                f"package {name}",
                f"{number}   DOES NOT IMPORT: {broken[name]}" if name in broken else number,
            ]
            for name, number in found["packages"].items()
        ),
        *(
            [name, value + ("" if value == OFFLINE[name] else "   (set by you)")]
            for name, value in found["network"].items()
        ),
        *([name, value] for name, value in found["environment"].items()),
    ]
    output.table(["what", "value"], rows)
    for name in broken.keys() & NEIGHBOURS.keys():
        print(f"{name}: edgegen never imports it, but {NEIGHBOURS[name].consequence}")
    print()
    columns = ("state", "version", "device", "why")
    output.table(
        ["runtime", *columns],
        [[name, *(finding[c] for c in columns)] for name, finding in found["runtimes"].items()],
    )
    for name, finding in found["runtimes"].items():
        for provider, state in finding.get("providers", {}).items():
            print(
                f"{name}, {provider}: "
                + ("a session ran" if state == RAN else f"in the package, but none runs: {state}")
            )
        if "bundle" in finding:
            print(f"{name}, bundle: {finding['bundle']}")
        if finding["state"] != "missing" and name in REMARKS:
            print(f"{name}: {REMARKS[name]}")
    if "airgap" in found:
        print()
        checks = found["airgap"]["checks"]
        rows = [
            [name, "ok" if check["ok"] else "OPEN", check["found"]]
            for name, check in checks.items()
        ]
        output.table(["air gap", "state", "found"], rows)


def _judge(found: dict[str, Any]) -> None:
    """RuntimeMissing, after everything has been shown: for an open air gap, a broken installation,
    or no runtime that works.
    """
    from ..machine.packages import PACKAGES

    runtimes = {name: finding for name, finding in found["runtimes"].items() if name != JUDGE}
    open_ = [
        f"{name}: {c['found']}"
        for name, c in found.get("airgap", {"checks": {}})["checks"].items()
        if not c["ok"]
    ]
    faults = [
        f"{name} does not import: {why}"
        for name, why in found["broken"].items()
        if name in PACKAGES
    ]
    faults += [
        f"{name} failed: {f['why']}" for name, f in runtimes.items() if f["state"] == "failed"
    ]
    faults += [
        f"{name}: {f['bundle']}"
        for name, f in runtimes.items()
        if f.get("bundle", "").startswith("error")
    ]
    if open_:
        raise RuntimeMissing("E-AIRGAP", f"not sealed off: {'; '.join(open_)}", details=found)
    if faults:
        raise RuntimeMissing(
            "E-DOCTOR", f"something installed here is broken: {'; '.join(faults)}", details=found
        )
    if all(finding["state"] != "ok" for finding in runtimes.values()):
        reasons = "; ".join(f"{name}: {finding['why']}" for name, finding in runtimes.items())
        raise RuntimeMissing(
            "E-BACKEND", f"no runtime executes graphs here: {reasons}", details=found
        )
