"""The device side: the wheel, its declared dependencies and one runtime; no torch, no network. The pixels are the office's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

from edgegen.cli.main import run

ROOT = Path(__file__).parents[1]
# What a machine without `unshare` gets instead of an empty network: a connection ends the process.
GUARD = "import socket, sys, runpy\ndef no(*a): sys.exit(f'a connection to {a[1:]}')\nsocket.socket.connect = no\n" \
        "sys.argv[0] = 'edgegen'\nrunpy.run_module('edgegen', run_name='__main__', alter_sys=True)"


def wheel(folder: Path) -> Path:
    """Built from a copy, since building writes into the source."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("edgegen", "export", "calibrate"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    flags = ["--no-build-isolation"] if find_spec("setuptools") else []
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", *flags, "-w", str(folder)]
    done = subprocess.run([*command, "."], cwd=source, capture_output=True, text=True, timeout=300)
    if done.returncode and not flags and "setuptools" in done.stderr:
        pytest.skip("setuptools is neither installed nor can it be fetched: no wheel was built")
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("edgegen-*.whl")
    return built


def requirements(lines: list[str], extra: str = "") -> list[Requirement]:
    found = [Requirement(line) for line in lines]
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": extra})]


def closure(wanted: list[Requirement]) -> set[str]:
    """The distributions that pip would install for these, by what each declares."""
    found: set[str] = set()
    todo = [(r.name, extra) for r in wanted for extra in ("", *r.extras)]
    while todo:
        name, extra = todo.pop()
        name = re.sub(r"[-_.]+", "-", name).lower()
        try:
            found.add(name)
            more = requirements(distribution(name).requires or [], extra)
        except PackageNotFoundError:
            pytest.skip(f"{name}, which the device needs, is not installed here")
        todo += [(r.name, e) for r in more for e in ("", *r.extras) if re.sub(r"[-_.]+", "-", r.name).lower() not in found]
    return found


def link(names: set[str], site: Path) -> None:
    """These distributions of this environment, and nothing else of it."""
    for name in names:
        here = distribution(name)
        for top in {Path(str(f)).parts[0] for f in here.files or [] if ".." not in Path(str(f)).parts}:
            if top != "__pycache__" and not (site / top).exists():
                (site / top).symlink_to(Path(str(here.locate_file(top))).resolve())


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment that has the wheel with its core dependencies and ONNX Runtime."""
    folder = tmp_path_factory.mktemp("device")
    built = wheel(folder / "wheel")
    venv.create(folder / "venv", symlinks=True, with_pip=False)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(site)
        metadata = archive.read(next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))).decode()
    lines = [line.partition(": ")[2] for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    link(closure(requirements(lines, "onnxruntime")), site)
    return folder / "venv" / "bin" / "python"


def on_device(python: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`edgegen` there, outside the checkout, without a network."""
    env = {"HOME": str(home), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    command = [str(python), "-P", "-m", "edgegen", *arguments]
    cut = ["unshare", "-n"] if shutil.which("unshare") and subprocess.run(["unshare", "-n", "true"]).returncode == 0 else []
    if not cut:
        command[2:4] = ["-c", GUARD]
    return subprocess.run([*cut, *command], cwd=home, env=env, capture_output=True, text=True, timeout=300)


def test_torch_and_onnx_are_not_there(device: Path, tmp_path: Path) -> None:
    for module in ("torch", "onnx", "openvino", "scipy", "pytest"):
        done = subprocess.run([device, "-P", "-c", f"import {module}"], cwd=tmp_path, capture_output=True, text=True)
        assert "ModuleNotFoundError" in done.stderr, module
    where = [str(device), "-P", "-c", "import edgegen; print(edgegen.__file__)"]
    assert str(device.parents[1]) in subprocess.run(where, cwd=tmp_path, capture_output=True, text=True).stdout


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_a_device_makes_the_offices_pixels(precision: str, device: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    (home := tmp_path / "home").mkdir()
    flags = ["--seed", "3", "-n", "4", "--precision", precision]
    done = on_device(device, home, "generate", str(tiny_bundle), *flags, "-o", str(tmp_path / "there.png"))
    assert done.returncode == 0, done.stderr
    assert f"4 images by onnxruntime {precision}" in done.stdout
    assert run(["generate", str(tiny_bundle), *flags, "--runtime", "onnxruntime", "-o", str(tmp_path / "here.png")]) == 0
    with Image.open(tmp_path / "there.png") as there, Image.open(tmp_path / "here.png") as here:
        np.testing.assert_array_equal(np.asarray(there), np.asarray(here))
    assert list(home.iterdir()) == [], "a device's home is left as it was"


def test_a_device_checks_times_and_says_what_it_cannot_do(device: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    assert on_device(device, tmp_path, "verify", str(tiny_bundle), "--files-only").returncode == 0
    timed = on_device(device, tmp_path, "bench", str(tiny_bundle), "--rounds", "5", "--batch", "1")
    assert timed.returncode == 0 and "onnxruntime INT8" in timed.stdout, timed.stderr
    assert "openvino is not installed" in timed.stdout
    whole = on_device(device, tmp_path, "verify", str(tiny_bundle))
    assert whole.returncode == 5 and 'torch is not installed: pip install "edgegen[train]"' in whole.stderr
    assert "--files-only" in whole.stderr
    run_here = on_device(device, tmp_path, "generate", "cas-dm", "-o", str(tmp_path / "x.png"))
    assert run_here.returncode == 5 and "torch" in run_here.stderr, run_here.stderr
    assert on_device(device, tmp_path, "models").returncode == 0
