"""Report what this machine has and which runtimes really work on it: each one executes a session in
a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.progress import Listener, silent
from ..errors import EdgegenError, RuntimeMissing
from ..export import RUNTIMES, runtime
from ..machine import airgap, describe, packages
from ..machine.child_process import Answer, ask
from ..machine.probe import probe
from .bundles import read_bundle
from .context import cores

if TYPE_CHECKING:
    from ..core.runtime import Runtime

JUDGE = "reference"  # the runtime that others are compared with; no device uses it
# runtime name to the key and the question of a further probe
MORE = {"onnxruntime": ("providers", "edgegen.machine.providers:tried")}


@dataclass(frozen=True)
class DoctorSettings:
    """Say what is examined beside the machine itself."""

    airgap: bool = False  # prove that nothing that runs here uses the network
    bundle: Path | None = None  # also make an image of this bundle on each runtime
    gpu_suite: Path | None = None  # a bundle that is measured on this machine's GPU
    gpu_report: Path = Path("gpu-report.json")  # where the measurements of gpu_suite are written


@dataclass(frozen=True)
class MachineReport:
    """Hold all findings as JSON values; `fault` says whether edgegen can work here."""

    machine: Mapping[str, Any]  # processor, memory, disks, variables
    packages: Mapping[str, str]  # versions of the installed packages
    broken: Mapping[str, str]  # installed packages that do not import, and why
    runtimes: Mapping[str, Mapping[str, Any]]  # state, version, device and reason of each runtime
    airgap: Mapping[str, Any] | None = None
    gpu_suite: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the document that `edgegen doctor --json` prints, without its outer frame."""
        found = {
            **self.machine,
            "packages": dict(self.packages),
            "broken": dict(self.broken),
            "runtimes": {name: dict(finding) for name, finding in self.runtimes.items()},
        }
        more = {"airgap": self.airgap, "gpu_suite": self.gpu_suite}
        return found | {name: value for name, value in more.items() if value is not None}

    def fault(self) -> RuntimeMissing | None:
        """Return an error for an open air gap, a broken installation or no runtime that works; None
        if all is well.
        """
        runtimes = {name: finding for name, finding in self.runtimes.items() if name != JUDGE}
        checks = self.airgap["checks"] if self.airgap else {}
        if found := [f"{name}: {c['found']}" for name, c in checks.items() if not c["ok"]]:
            return self._fault("E-AIRGAP", f"the network can still be reached: {'; '.join(found)}")
        faults = [
            f"{name} does not import: {why}"
            for name, why in self.broken.items()
            if name in packages.PACKAGES
        ]
        faults += [
            f"{name} failed: {finding['why']}"
            for name, finding in runtimes.items()
            if finding["state"] == "failed"
        ]
        faults += [
            f"{name}: {finding['bundle']}"
            for name, finding in runtimes.items()
            if finding.get("bundle", "").startswith("error")
        ]
        if faults:
            what = f"something installed here is broken: {'; '.join(faults)}"
            return self._fault("E-DOCTOR", what)
        if all(finding["state"] != "ok" for finding in runtimes.values()):
            reasons = "; ".join(f"{name}: {finding['why']}" for name, finding in runtimes.items())
            return self._fault("E-BACKEND", f"no runtime executes graphs here: {reasons}")
        return None

    def _fault(self, code: str, what: str) -> RuntimeMissing:
        return RuntimeMissing(code, what, details=self.to_json())


def examine_machine(
    settings: DoctorSettings | None = None, listen: Listener = silent
) -> MachineReport:
    """Try every package and runtime in processes of their own, and describe this machine.

    What is broken becomes a finding of the report, not an error. Raises InputError or TrustError if
    the bundle of the settings is damaged.
    """
    settings = settings or DoctorSettings()
    if settings.bundle is not None:
        read_bundle(settings.bundle)  # a damaged bundle must not look like a fault of a runtime
    versions = packages.versions()
    broken, runtimes, attempts = _tried(settings, list(versions), listen)
    for name, (key, question) in MORE.items():
        if runtimes[name]["state"] != "missing":
            answer = ask(question, listen=0 if settings.airgap else None)
            attempts[name] += answer.attempts
            runtimes[name][key] = answer.found or {"any": answer.why}
    sealed = airgap.report(attempts, {"zoo": _zoo()}) if settings.airgap else None
    measured = None
    if settings.gpu_suite is not None:
        from .gpu_suite import suite

        measured = suite(read_bundle(settings.gpu_suite), settings.gpu_report, listen)
    return MachineReport(describe.machine(), versions, broken, runtimes, sealed, measured)


def _tried(
    settings: DoctorSettings, installed: list[str], listen: Listener
) -> tuple[dict[str, str], dict[str, dict[str, Any]], dict[str, tuple[str, ...]]]:
    """Return the packages that do not import, the findings of each runtime, and what in each
    process wanted the network.

    Sealed processes wait for such attempts, so all run side by side; others run as many at once as
    there are cores.
    """
    seconds = airgap.LISTEN if settings.airgap else None
    place = "" if settings.bundle is None else str(settings.bundle.absolute())
    jobs: dict[str, Callable[[], tuple[Any, tuple[str, ...]]]] = {
        "packages": lambda: packages.broken(installed, seconds)
    }
    for name in RUNTIMES:
        jobs[name] = partial(isolated, name, seconds, "" if name == JUDGE else place)
    with (
        listen.progress("trying packages and runtimes", len(jobs)) as advance,
        ThreadPoolExecutor(len(jobs) if settings.airgap else cores()) as pool,
    ):
        running = {name: pool.submit(job) for name, job in jobs.items()}
        for _ in as_completed(running.values()):
            advance(1)
        answers = {name: future.result() for name, future in running.items()}
    attempts = {name: wishes for name, (_, wishes) in answers.items()}
    broken = answers.pop("packages")[0]
    return broken, {name: finding for name, (finding, _) in answers.items()}, attempts


def isolated(
    name: str, listen: float | None = None, bundle: str = ""
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Probe the runtime of that name in a process of its own.

    Returns its findings and what in the process wanted the network; `listen` is passed on to
    machine.child_process.ask.
    """
    answer: Answer = ask("edgegen.workflows.doctor:probed", name, bundle, listen=listen)
    if answer.found is None:
        return {"version": "", "device": "", "state": "failed", "why": answer.why}, answer.attempts
    return answer.found, answer.attempts


def probed(folder: Path, name: str, bundle: str) -> dict[str, str]:
    """Answer in the process that `isolated` starts; also make one image of `bundle` if it is named
    and the runtime works.
    """
    target = runtime(name)
    found = probe(target, folder)
    if bundle and found["state"] == "ok":
        found["bundle"] = _image(target, bundle)
    return found


def _image(target: Runtime, bundle: str) -> str:
    """Return "made an image", or the reason why none could be made."""
    from ..core.images import to_uint8

    try:
        opened = read_bundle(bundle)
        if target.name not in opened.manifest.runtimes:
            return "it has no files for this runtime"
        if target.executable:
            return "its engines are executable code, which doctor does not run"
        to_uint8(opened.pipeline(target)([0]))
    except EdgegenError as error:
        return str(error)
    return "made an image"


def _zoo() -> tuple[bool, str]:
    """Return whether all files of the zoo are installed, because they are not downloaded later, and
    a sentence about it.
    """
    from ..zoo import entries

    found = entries()
    absent = [
        str(path)
        for entry in found
        for path in (entry.weights, entry.reference)
        if not path.is_file()
    ]
    names = ", ".join(entry.name for entry in found)
    return (
        bool(found) and not absent,
        f"not found: {', '.join(absent)}" if absent else f"weights and statistics of {names}",
    )
