"""What doctor says, and with which exit code, on machines that the test makes: no runtime, CPU
only, a GPU package without CUDA, a package that breaks others, an air gap.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import devices
import pytest
from devices import Device

from edgegen.cli.main import run
from edgegen.core.offline import OFFLINE
from edgegen.export import RUNTIMES
from edgegen.machine import airgap, packages
from edgegen.machine.child_process import ask
from edgegen.machine.network_sandbox import unwatched
from edgegen.workflows.doctor import MachineReport

pytestmark = pytest.mark.slow

TOY = Path(__file__).parent / "golden" / "bundle-1-toy"
needs_seccomp = pytest.mark.skipif(unwatched() is not None, reason=str(unwatched()))


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Device:
    """With ONNX Runtime's GPU package."""
    return devices.device(tmp_path_factory.mktemp("device"), wheel, ["onnxruntime"])


def said(
    device: Device, home: Path, *flags: str, path: Path | None = None, code: int = 0
) -> dict[str, Any]:
    done = device.edgegen(home, "doctor", "--json", *flags, path=path)
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def package(folder: Path, name: str, version: str, source: str) -> Path:
    """An installed distribution of one module."""
    module = folder / name.replace("-", "_")
    module.mkdir(parents=True)
    (module / "__init__.py").write_text(source)
    (info := folder / f"{module.name}-{version}.dist-info").mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def test_no_runtime(wheel: Path, tmp_path: Path) -> None:
    bare = devices.device(tmp_path, wheel, [])
    found = said(bare, tmp_path, code=5)
    assert found["code"] == "E-BACKEND"
    assert 'onnxruntime is not installed: pip install "edgegen[onnxruntime]"' in found["message"]
    assert {r["state"] for r in found["details"]["runtimes"].values()} == {"missing"}
    assert found["details"]["broken"] == {} and "torch" not in found["details"]["packages"]
    people = bare.edgegen(tmp_path, "doctor")
    assert (
        people.returncode == 5
        and "missing" in people.stdout
        and "no runtime executes graphs here" in people.stderr
    )


def test_cpu_only(wheel: Path, tmp_path: Path) -> None:
    found = said(devices.device(tmp_path, wheel, ["openvino"]), tmp_path)
    states = {name: finding["state"] for name, finding in found["runtimes"].items()}
    assert states.pop("openvino") == "ok" and set(states.values()) == {"missing"}
    assert found["runtimes"]["openvino"]["device"] == "CPU"


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine may have CUDA")
def test_a_gpu_package_without_cuda(device: Device, tmp_path: Path) -> None:
    """What the package lists is not what runs, and the missing library is named."""
    if "onnxruntime-gpu" not in device.names:
        pytest.skip("this is the package for CPUs")
    found = said(device, tmp_path)["runtimes"]["onnxruntime"]
    assert found["state"] == "ok" and found["device"] == "CPU"
    assert found["providers"].pop("CPUExecutionProvider") == "ran"
    assert "CUDAExecutionProvider" in found["providers"]
    assert all("cannot open shared object file" in why for why in found["providers"].values()), (
        found["providers"]
    )
    people = device.edgegen(tmp_path, "doctor").stdout
    assert (
        "onnxruntime, CUDAExecutionProvider: listed by the package, but no session could run: "
        "libcu" in people
    )
    assert "onnxruntime, CPUExecutionProvider: a session ran" in people


def test_a_package_that_breaks_others(device: Device, tmp_path: Path) -> None:
    path = package(tmp_path / "site", "torch-fidelity", "0.4.0", "import torchvision")
    found = said(device, tmp_path, path=path)
    assert found["packages"]["torch-fidelity"] == "0.4.0"
    assert found["broken"] == {
        "torch-fidelity": "ModuleNotFoundError: No module named 'torchvision'"
    }
    people = device.edgegen(tmp_path, "doctor", path=path).stdout
    assert "0.4.0   DOES NOT IMPORT: ModuleNotFoundError: No module named 'torchvision'" in people
    assert (
        "torch-fidelity: edgegen never imports it, but torchmetrics.image does, and fails as long "
        "as it is installed" in people
    )


def test_a_package_of_ours_that_is_broken_is_no_success(device: Device, tmp_path: Path) -> None:
    path = package(
        tmp_path / "site", "accelerate", "1.0", "raise RuntimeError('built for another Python')"
    )
    found = said(device, tmp_path, path=path, code=5)
    assert found["code"] == "E-DOCTOR"
    assert "accelerate does not import: RuntimeError: built for another Python" in found["message"]


def test_a_folder_with_traps(device: Device, tmp_path: Path) -> None:
    """The verb where the user has modules called as ours and as the standard library's."""
    traps = {"export.py", "calibrate.py", "json.py", "onnxruntime.py"}
    for name in traps:
        (tmp_path / name).write_text("raise SystemExit('the wrong module')")
    found = said(device, tmp_path)
    assert found["ok"] and found["verb"] == "doctor" and found["network"]["HF_HUB_OFFLINE"] == "1"
    assert list(found["runtimes"]) == list(RUNTIMES)
    assert found["runtimes"]["onnxruntime"]["state"] == "ok"
    assert {p.name for p in tmp_path.iterdir()} == traps


def test_a_package_that_takes_the_process_down_is_named_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(
        package(
            tmp_path, "torchvision", "1", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
        )
    )
    assert packages.broken(["numpy", "torchvision"])[0] == {
        "torchvision": "the process crashed with SIGSEGV"
    }


@needs_seccomp
def test_the_air_gap_of_a_device(device: Device, tmp_path: Path) -> None:
    whole = said(device, tmp_path, "--airgap", "--bundle", str(TOY))
    assert whole["runtimes"]["onnxruntime"]["bundle"] == "made an image"
    found = whole["airgap"]
    assert {name: check["ok"] for name, check in found["checks"].items()} == dict.fromkeys(
        ["network", "native code", "variables", "OpenVINO's telemetry", "zoo"], True
    )
    assert not any(found["attempts"].values()) and set(found["attempts"]) >= {
        "packages",
        "onnxruntime",
    }


def test_a_damaged_bundle_is_no_fault_of_a_runtime(tmp_path: Path) -> None:
    shutil.copytree(TOY, bundle := tmp_path / "b")
    (bundle / "README.md").unlink()
    assert run(["doctor", "--bundle", str(bundle)]) == 6
    assert run(["doctor", "--bundle", str(tmp_path / "none")]) == 4


# What the children of the next tests answer with.


def look_up(_: Path) -> str:
    try:
        socket.create_connection(("telemetry.example", 443))
    except OSError as error:
        return str(error)
    return "reached"


def numeric(_: Path) -> str:
    try:
        socket.socket(socket.AF_INET6)
    except OSError as error:
        return str(error)
    return "reached"


def local(_: Path) -> str:
    with socket.socket(socket.AF_UNIX):
        return "opened"


def native(_: Path) -> str:
    return f"socket {ctypes.CDLL(None).socket(int(socket.AF_INET), int(socket.SOCK_DGRAM), 0)}"


SEALED = "[Errno 101] edgegen sealed this process off the network"


@pytest.mark.parametrize(
    ("question", "answer", "attempts"),
    [
        ("look_up", SEALED, ("test_machines looks up telemetry.example",)),
        ("numeric", SEALED, ("test_machines opens an internet socket",)),
        ("local", "opened", ()),
    ],
)
def test_python_is_refused_and_named(question: str, answer: str, attempts: tuple[str, ...]) -> None:
    found = ask(f"test_machines:{question}", listen=0)
    assert (found.found, found.attempts) == (answer, attempts)


@needs_seccomp
def test_native_code_that_opens_a_socket_does_not_live_to_use_it() -> None:
    found = ask("test_machines:native", listen=0)
    assert found.found is None and found.attempts == ("native code opens an internet socket",)
    assert str(ask("test_machines:native").found).startswith("socket "), (
        "not sealed unless asked for"
    )


def test_a_wish_for_the_network_is_no_air_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = airgap.report(
        {"packages": (), "openvino": ("openvino_telemetry looks up example.org",)}
    )["checks"]
    assert checks["network"] == {
        "ok": False,
        "found": "openvino: openvino_telemetry looks up example.org",
    }
    ok = {"state": "ok", "why": ""}
    report = MachineReport({}, {}, {}, {"onnxruntime": ok}, {"checks": checks})
    said = (
        "E-AIRGAP] the network can still be reached: network: openvino: openvino_telemetry looks up"
    )
    assert said in str(report.fault())


def test_what_the_user_switched_on_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    assert airgap._variables(os.environ)[0]
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert airgap._variables(os.environ) == (
        False,
        "HF_HUB_OFFLINE=0 is set, 1 keeps its library off the network",
    )


@pytest.mark.parametrize(
    ("runtimes", "broken", "said"),
    [
        ({"onnxruntime": "ok", "openvino": "missing"}, {}, None),
        ({"onnxruntime": "ok", "tensorrt-rtx": "builds"}, {"torch-fidelity": "why"}, None),
        (
            {"onnxruntime": "ok", "openvino": "failed"},
            {},
            "E-DOCTOR] something installed here is broken: openvino failed: why",
        ),
        ({"onnxruntime": "ok"}, {"peft": "ImportError: x"}, "peft does not import: ImportError: x"),
        (
            {"tensorrt-rtx": "builds", "reference": "ok"},
            {},
            "E-BACKEND] no runtime executes graphs here: tensorrt-rtx: why",
        ),
    ],
)
def test_the_exit_code_tells_the_truth(
    runtimes: dict[str, str], broken: dict[str, str], said: str | None
) -> None:
    findings = {n: {"state": s, "why": "why"} for n, s in runtimes.items()}
    report = MachineReport({"edgegen": "1"}, {}, broken, findings)
    fault = report.fault()
    if said is None:
        assert fault is None
        return
    assert fault is not None and fault.exit_code == 5 and fault.details == report.to_json()
    assert said in str(fault)
