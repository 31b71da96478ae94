"""The device side: the wheel, its declared dependencies and one runtime; no torch, no network. The
pixels are the office's.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import devices
import numpy as np
import pytest
from devices import Device
from PIL import Image

from edgegen.cli.main import run
from edgegen.core.bundle import MANIFEST, digest, sha256
from edgegen.core.files import read_json, to_json
from edgegen.evidence import golden_images

pytestmark = pytest.mark.slow

PROMPTS = Path(__file__).parent / "golden" / "bundle-2-prompts"
LIMIT = 150e6  # bytes of the core with everything it needs, beside the runtime itself


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Device:
    """With ONNX Runtime."""
    return devices.device(tmp_path_factory.mktemp("device"), wheel, ["onnxruntime"])


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_torch_and_onnx_are_not_there(device: Device, tmp_path: Path) -> None:
    for module in ("torch", "onnx", "openvino", "scipy", "pytest"):
        assert "ModuleNotFoundError" in device.run(tmp_path, f"import {module}").stderr, module
    where = device.run(tmp_path, "import edgegen; print(edgegen.__file__)").stdout
    assert str(device.python.parents[1]) in where


def test_the_core_is_small(wheel: Path) -> None:
    """The wheel, with the zoo, and every library it needs; numpy counts, though each runtime needs
    it too.
    """
    with zipfile.ZipFile(wheel) as archive:
        ours = sum(entry.file_size for entry in archive.infolist())
    libraries = devices.size(devices.closure(devices.needed(wheel, [])))
    print(f"core: {libraries / 1e6:.0f} MB of libraries, {ours / 1e6:.0f} MB of edgegen")
    assert 50e6 < libraries + ours < LIMIT


@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_device_makes_the_offices_pixels(
    name: str, precision: str, wheel: Path, device: Device, tiny_bundle: Path, tmp_path: Path
) -> None:
    there = device if name == "onnxruntime" else devices.device(tmp_path, wheel, [name])
    (home := tmp_path / "home").mkdir()
    flags = ["--seed", "3", "-n", "4", "--precision", precision]
    done = there.edgegen(
        home, "generate", str(tiny_bundle), *flags, "-o", str(tmp_path / "there.png")
    )
    assert done.returncode == 0, done.stderr
    assert f"4 images by {name} {precision}" in done.stdout
    assert (
        run(
            [
                "generate",
                str(tiny_bundle),
                *flags,
                "--runtime",
                name,
                "-o",
                str(tmp_path / "here.png"),
            ]
        )
        == 0
    )
    # another process with as many threads as it likes: a sum that ends between two levels may fall
    # to either
    a, b = (pixels(tmp_path / f"{machine}.png").astype(int) for machine in ("there", "here"))
    assert a.shape == b.shape and (np.abs(a - b) <= 1).mean() >= 0.999
    assert list(home.iterdir()) == [], "a device's home is left as it was"


def test_prompts_become_images_on_a_device(wheel: Path, device: Device, tmp_path: Path) -> None:
    """New ones where the extra is; without it, those that the bundle holds, and a sentence."""
    (home := tmp_path / "home").mkdir()
    asked = ["generate", str(PROMPTS), "-n", "2", "-o"]
    new, own = ["--prompt", "the red shoe", "--negative", "x"], ["--prompt", "a red shoe"]
    assert device.edgegen(home, *asked, str(tmp_path / "own.png"), *own).returncode == 0
    refused = device.edgegen(home, *asked, str(tmp_path / "none.png"), *new)
    assert refused.returncode == 5 and 'pip install "edgegen[prompts]"' in refused.stderr
    with_extra = devices.device(tmp_path, wheel, ["onnxruntime", "prompts"])
    assert not with_extra.names & {"torch", "diffusers", "transformers", "onnx"}
    done = with_extra.edgegen(home, *asked, str(tmp_path / "new.png"), *new)
    assert done.returncode == 0, done.stderr
    assert (pixels(tmp_path / "new.png") != pixels(tmp_path / "own.png")).any()
    done = with_extra.edgegen(home, "verify", str(PROMPTS), "--images-only")
    assert done.returncode == 0, done.stderr
    assert list(home.iterdir()) == []


def test_a_device_shows_that_its_images_are_those_of_the_export(
    device: Device, tiny_bundle: Path, tmp_path: Path
) -> None:
    done = device.edgegen(tmp_path, "verify", str(tiny_bundle), "--images-only", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sorted(found["images"]) == ["onnxruntime FP32", "onnxruntime INT8"]
    for alike in found["images"].values():
        assert alike["same"] and alike["within_one_level"] >= 0.999
    assert "openvino is not installed" in found["skipped"]["openvino"]


def test_a_machine_that_makes_other_images_fails(
    device: Device, tiny_bundle: Path, tmp_path: Path
) -> None:
    """As far from the kept ones as those of the next seed are."""
    shutil.copytree(tiny_bundle, other := tmp_path / "other")
    there = golden_images.parsed((other / golden_images.FILE).read_bytes(), other)
    (other / golden_images.FILE).write_bytes(
        golden_images.to_bytes(golden_images.Kept(there.first_seed + 1, there.sets))
    )
    manifest = read_json(other / MANIFEST)
    manifest["files"][golden_images.FILE] = {
        "bytes": (other / golden_images.FILE).stat().st_size,
        "sha256": sha256(other / golden_images.FILE),
    }
    manifest["sha256"] = digest(manifest)
    (other / MANIFEST).write_bytes(to_json(manifest))
    done = device.edgegen(tmp_path, "verify", str(other), "--images-only")
    assert done.returncode == 3, done.stderr
    assert (
        "E-PARITY] this machine makes other images than the export did: onnxruntime FP32, "
        "onnxruntime INT8" in done.stderr
    )


def test_a_device_checks_times_and_says_what_it_cannot_do(
    device: Device, tiny_bundle: Path, tmp_path: Path
) -> None:
    assert device.edgegen(tmp_path, "verify", str(tiny_bundle), "--files-only").returncode == 0
    timed = device.edgegen(tmp_path, "bench", str(tiny_bundle), "--rounds", "5", "--batch", "1")
    assert timed.returncode == 0 and "onnxruntime INT8" in timed.stdout, timed.stderr
    assert "openvino is not installed" in timed.stdout
    whole = device.edgegen(tmp_path, "verify", str(tiny_bundle))
    assert (
        whole.returncode == 5
        and 'torch is not installed: pip install "edgegen[train]"' in whole.stderr
    )
    assert "--images-only" in whole.stderr
    run_here = device.edgegen(tmp_path, "generate", "cas-dm", "-o", str(tmp_path / "x.png"))
    assert run_here.returncode == 5 and "torch" in run_here.stderr, run_here.stderr
    assert device.edgegen(tmp_path, "models").returncode == 0
