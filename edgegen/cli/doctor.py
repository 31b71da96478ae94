"""edgegen doctor: report what this machine has, each runtime by a session that really ran."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.offline import OFFLINE
from . import output

REMARKS = {
    "tensorrt-rtx": "INT8 convolutions can be built, but NVIDIA's support matrix lists INT8 only "
    "for weight-only GEMM: their speed is not proven until it is measured on a GPU.",
}


def doctor(
    airgap: Annotated[
        bool,
        typer.Option(
            "--airgap", help="Prove that nothing that edgegen runs here uses the network."
        ),
    ] = False,
    bundle: Annotated[
        Path | None, typer.Option(help="Also make an image from this bundle on each runtime.")
    ] = None,
    gpu_suite: Annotated[
        Path | None,
        typer.Option(help="Bundle to measure on this machine's GPU; writes gpu-report.json."),
    ] = None,
    json: output.Json = False,
) -> None:
    """Show what this machine has and which runtimes really run on it; exit 5 if none runs or an
    installed package is broken.
    """
    from ..workflows.doctor import DoctorSettings, examine_machine

    settings = DoctorSettings(airgap, bundle, gpu_suite)
    report = examine_machine(settings, output.terminal)
    output.result("doctor", report.to_json())
    _show(report.to_json())
    if report.gpu_suite is not None:
        _show_suite(report.gpu_suite, settings.gpu_report)
    if (fault := report.fault()) is not None:
        raise fault


def _show(found: Mapping[str, Any]) -> None:
    from ..machine.packages import NEIGHBOURS

    cpu, memory, broken = found["cpu"], found["memory_bytes"], found["broken"]
    disks = (f"{free / 1e9:.1f} GB free in {place}" for place, free in found["disk_bytes"].items())
    flags = " ".join(cpu["flags"]) or "no INT8 instructions reported"
    rows = [
        ["edgegen", found["edgegen"]],
        ["python", f"{found['python']['version']} ({found['python']['executable']})"],
        ["system", found["system"]],
        ["cpu", f"{cpu['model']}, {cpu['usable']} usable; {flags}"],
        ["memory", f"{memory['free'] / 1e9:.1f} of {memory['total'] / 1e9:.1f} GB free"],
        ["disk", ", ".join(disks)],
    ]
    for name, version in found["packages"].items():
        fault = f"   DOES NOT IMPORT: {broken[name]}" if name in broken else ""
        rows.append([f"package {name}", version + fault])
    for name, value in found["network"].items():
        rows.append([name, value + ("" if value == OFFLINE[name] else "   (set by you)")])
    rows += [[name, value] for name, value in found["environment"].items()]
    output.table(["what", "value"], rows)
    for name in broken.keys() & NEIGHBOURS.keys():
        print(f"{name}: edgegen never imports it, but {NEIGHBOURS[name].consequence}")
    for remark in found["remarks"]:
        print(f"note: {remark}")
    print()
    _show_runtimes(found["runtimes"])
    if "airgap" in found:
        print()
        checks = found["airgap"]["checks"].items()
        rows = [[name, "ok" if c["ok"] else "OPEN", c["found"]] for name, c in checks]
        output.table(["air gap", "state", "found"], rows)


def _show_runtimes(findings: Mapping[str, Mapping[str, Any]]) -> None:
    from ..machine.providers import RAN

    columns = ("state", "version", "device", "why")
    rows = [[name, *(finding[c] for c in columns)] for name, finding in findings.items()]
    output.table(["runtime", *columns], rows)
    for name, finding in findings.items():
        for provider, state in finding.get("providers", {}).items():
            fault = f"listed by the package, but no session could run: {state}"
            print(f"{name}, {provider}: {'a session ran' if state == RAN else fault}")
        if "bundle" in finding:
            print(f"{name}, bundle: {finding['bundle']}")
        if finding["state"] != "missing" and name in REMARKS:
            print(f"{name}: {REMARKS[name]}")


def _show_suite(report: Mapping[str, Any], path: Path) -> None:
    from ..workflows.gpu_suite import BATCH

    gains, measured = report["int8_over_fp16"], ("wall_ms", "psnr_db_against_fp32")
    rows = [
        [
            name,
            finding["state"],
            *(f"{finding[key]:.2f}" if key in finding else "" for key in measured),
            f"{gains[name]:.2f} x" if name in gains else "",
            finding.get("why", ""),
        ]
        for name, finding in report["runtimes"].items()
    ]
    print()
    output.table(["GPU runtime", "state", "wall ms", "PSNR dB", "INT8 over FP16", "why"], rows)
    print(
        f"written: {path}; times are of the mean sampler step, batch {BATCH}, copies to and from "
        "the GPU included"
    )
