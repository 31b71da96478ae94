"""Nothing that edgegen runs talks to the network, and a program that imports it keeps its own
environment.

Telemetry is silent where CI is set, so it is unset here; the processes are sealed by the kernel, go
on for as long as ONNX Runtime's telemetry waits, and may not leave anything in their home either.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgegen.core.offline import OFFLINE
from edgegen.export import runtime
from edgegen.machine.network_sandbox import unwatched

TOY = Path(__file__).parent / "golden" / "bundle-1-toy"
TOLD = ("CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS", *OFFLINE)
needs_seccomp = pytest.mark.skipif(unwatched() is not None, reason=str(unwatched()))
SEALED = """
import os, sys, time
from pathlib import Path
from edgegen.machine.airgap import LISTEN
from edgegen.machine.network_sandbox import seal
seal(Path("attempts"))
{code}
assert not {names!r} & os.environ.keys()
assert "openvino_telemetry" not in sys.modules
time.sleep(LISTEN)
"""


def python(
    code: str, home: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter of a program that was told nothing, in the folder `home`."""
    env = {k: v for k, v in os.environ.items() if k not in TOLD}
    env |= {"HOME": str(home), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=home,
        env={**env, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def sealed(code: str, home: Path, *arguments: str) -> None:
    done = python(SEALED.format(code=code, names=set(OFFLINE)), home, *arguments)
    attempts = home / "attempts"
    assert not attempts.is_file(), attempts.read_text()
    assert done.returncode == 0, done.stderr[-2000:]
    assert [str(path) for path in home.rglob("*")] == []


def test_importing_edgegen_changes_nothing(tmp_path: Path) -> None:
    code = (
        "import os, sys; before = dict(os.environ); import edgegen; "
        "assert dict(os.environ) == before and 'openvino_telemetry' not in sys.modules"
    )
    assert python(code, tmp_path).returncode == 0


def test_offline_tells_every_library_but_respects_the_user(tmp_path: Path) -> None:
    code = (
        "import os, sys, edgegen; edgegen.offline(); "
        "assert sys.modules['openvino_telemetry'] is None; "
        f"print(*(os.environ[name] for name in {sorted(OFFLINE)}))"
    )
    values = dict(sorted(OFFLINE.items()))
    assert python(code, tmp_path).stdout.split() == list(values.values())
    values["HF_HUB_OFFLINE"] = "0"
    assert python(code, tmp_path, HF_HUB_OFFLINE="0").stdout.split() == list(values.values())


def test_the_command_line_is_offline(tmp_path: Path) -> None:
    code = (
        "import os, sys; from edgegen.cli.main import run; run(['--version']); "
        "assert sys.modules['openvino_telemetry'] is None and os.environ['HF_HUB_OFFLINE'] == '1'"
    )
    assert python(code, tmp_path).returncode == 0


@pytest.mark.slow
@needs_seccomp
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_images_of_a_bundle_open_no_socket(name: str, tmp_path: Path) -> None:
    if why := runtime(name).cannot_run():
        pytest.skip(why)
    code = """
from edgegen.workflows.bundles import open_bundle
images = open_bundle(sys.argv[1]).generate(seeds=range(4), runtime=sys.argv[2], precision="fp32")
assert images.shape[0] == 4 and images.dtype == "uint8"
assert "torch" not in sys.modules
"""
    sealed(code, tmp_path, str(TOY), name)


@pytest.mark.slow
@needs_seccomp
def test_calibrating_a_trained_generator_opens_no_socket(tiny_run: Path, tmp_path: Path) -> None:
    """Torch, the ONNX exporter and ONNX Runtime in one program."""
    code = """
import shutil
from edgegen.workflows.calibrate import CalibrateSettings, calibrate_generator
from edgegen.workflows.generators import load_generator
settings = CalibrateSettings(samples=32, threads=1)
calibrate_generator(load_generator(sys.argv[1]), "stats", settings)
shutil.rmtree("stats")
"""
    sealed(code, tmp_path, str(tiny_run))


@pytest.mark.slow
@needs_seccomp
def test_what_fine_tuning_imports_opens_no_socket(tmp_path: Path) -> None:
    """They are not silenced: they want nothing as edgegen uses them."""
    for name in ("peft", "accelerate"):
        pytest.importorskip(name)
    code = """
import torch
from accelerate import PartialState
from peft import LoraConfig, get_peft_model
PartialState(cpu=True)
get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), LoraConfig(target_modules=["0"]))
"""
    sealed(code, tmp_path)
