"""What holds for the installed wheel, without torch and away from the checkout (.ci/run runs it
there).
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import files, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import edgegen

HERE = Path(edgegen.__file__).parent


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgegen", *arguments], capture_output=True, text=True, check=False
    )


def test_version_is_that_of_the_distribution() -> None:
    assert edgegen.__version__ == version("edgegen")


def test_every_package_came_along() -> None:
    for name in (
        "calibrate",
        "cli",
        "core",
        "evidence",
        "explain",
        "export",
        "families",
        "machine",
        "training",
        "workflows",
        "zoo",
    ):
        assert (HERE / name / "__init__.py").is_file(), name
    assert (HERE / "py.typed").is_file()
    assert (HERE / "export" / "ort.py").is_file()


def test_the_zoo_came_along() -> None:
    from edgegen.zoo import entries

    assert "cas-dm" in [entry.name for entry in entries()]
    for entry in entries():
        assert all(path.is_file() for path in (entry.weights, entry.reference, entry.grid)), (
            entry.name
        )


def test_the_bare_names_are_not_installed() -> None:
    if (HERE.parent / "pyproject.toml").is_file():
        pytest.skip("this is the checkout: only an installed wheel can show it (.ci/run does)")
    installed = {f.parts[0] for f in files("edgegen") or []}
    assert not installed & {"export", "calibrate", "tests", "benchmarks"}


def test_help_and_version() -> None:
    assert cli("--version").stdout.strip() == edgegen.__version__
    assert cli("--help").returncode == 0


@pytest.fixture(scope="module")
def runtimes() -> dict[str, dict[str, str]]:
    """What doctor says of them."""
    done = cli("doctor", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, str]] = json.loads(done.stdout)["runtimes"]
    return found


def test_doctor_runs_a_session(runtimes: dict[str, dict[str, str]]) -> None:
    assert runtimes["onnxruntime"]["state"] == "ok", runtimes


def test_what_needs_an_extra_says_which(runtimes: dict[str, dict[str, str]]) -> None:
    if find_spec("openvino"):
        pytest.skip("openvino is installed here, so nothing is missing")
    assert (
        runtimes["openvino"]["why"] == 'openvino is not installed: pip install "edgegen[openvino]"'
    )


def test_noise_is_the_same_on_every_machine() -> None:
    """Seeds are a contract between versions and machines: the numbers of seed 7 never change."""
    from edgegen.core.noise import noise
    from edgegen.core.spec import TensorSpec

    drawn = noise(TensorSpec("x", ("batch", 4)), [7], "start")
    np.testing.assert_allclose(
        drawn, [[1.16491354, -0.95449209, 0.83191204, -0.61865705]], rtol=1e-6
    )
