"""What the path behind training promises of every family: a proven INT8 bundle, and the same images
without torch.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from runs import HERE
from toys import shake, shapes

from edgegen.cli.main import run
from edgegen.core.bundle import Bundle
from edgegen.core.files import put
from edgegen.core.images import to_uint8
from edgegen.core.samplers import sampler_from_json, sampler_to_json
from edgegen.evidence import reference
from edgegen.evidence.features import feature_network
from edgegen.families import FAMILIES
from edgegen.training import checkpoint, digests
from edgegen.workflows.generators import load_generator, torch_pipeline

pytestmark = pytest.mark.export

WITHOUT_TORCH = """
import sys
sys.path[:0] = {path!r}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx"):
            raise ImportError(f"a device has no {{name}}")

sys.meta_path.insert(0, Refuse())
from edgegen.cli.main import run
code = run(["generate", {bundle!r}, "--precision", "fp32", "--runtime", "onnxruntime",
            "--seed", "5", "-n", "3", "-o", {out!r}])
assert not {{"torch", "onnx"}} & set(sys.modules)
sys.exit(code)
"""


@pytest.fixture(scope="module", params=FAMILIES)
def finished(
    request: pytest.FixtureRequest,
    family_run: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run of a few steps with the reference that a longer one ends with."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    shutil.copytree(family_run(request.param), folder)
    photos = shapes(64, load_generator(str(folder)).generator.image_shape[-1])
    network = feature_network("efficientnet-lite0", size=tiny.SIZE)
    reference.build(network(photos.pixels), network, "shapes", 8).write(
        folder / "reference.safetensors"
    )
    return folder


def vary(run: Path) -> None:
    """Shake a run's weights: after so few steps of training, one step of lcd makes the same image
    from every seed, or nearly so.
    """
    family: Any = load_generator(str(run)).generator
    shipped = family.shipped
    shake(shipped, 1, 0.1)
    put(run / checkpoint.WEIGHTS, checkpoint.to_bytes(shipped.state_dict()))
    (run / digests.FILE).unlink()


def test_a_sampler_is_data(finished: Path) -> None:
    sampler = load_generator(str(finished)).generator.sampler
    assert sampler_from_json(json.loads(json.dumps(sampler_to_json(sampler)))) == sampler


def test_steps_are_of_the_sampler_that_ships_or_mean_nothing(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One step is lcd's hardest case, and what its sampler is chosen for."""
    family = load_generator(str(finished)).family
    if family == "isc-gan":
        assert tiny.export(finished, tmp_path / "one", "--steps", "1", runtimes="onnxruntime") == 2
        assert "isc-gan has no option --steps" in capfd.readouterr().err
        return
    assert tiny.export(finished, tmp_path / "none", "--steps", "5000", runtimes="onnxruntime") == 2
    assert "--steps: " in capfd.readouterr().err and not (tmp_path / "none").exists()
    if family != "lcd":
        return
    vary(finished)
    assert tiny.export(finished, tmp_path / "one", "--steps", "1", runtimes="onnxruntime") == 0
    bundle = Bundle.open(tmp_path / "one")
    assert len(sampler_from_json(bundle.manifest.sampler).timesteps) == 1
    assert bundle.manifest.runtimes["onnxruntime"].until == {}, (
        "of one step none is the last of several"
    )
    one, out = str(tmp_path / "one"), str(tmp_path / "map")
    assert (
        run(["damage", str(finished), one, "-o", out, "--quick"]) == 4
        and "uses another sampler than" in capfd.readouterr().err
    )


def test_a_bundle_is_proven_and_makes_torch_s_images_without_torch(
    finished: Path, tmp_path: Path
) -> None:
    out, images = tmp_path / "bundle", tmp_path / "images"
    small = load_generator(str(finished)).family == "isc-gan"
    # test_half.py builds the engines of every family's graphs
    runtimes = tiny.RUNTIMES if small else "onnxruntime,openvino"
    assert tiny.export(finished, out, runtimes=runtimes) == 0
    manifest = Bundle.open(out).manifest
    assert sorted(manifest.runtimes) == sorted(runtimes.split(","))
    assert all(
        manifest.evidence["runtimes"][name]["verdict"] == "within" for name in manifest.runtimes
    )
    assert 0 < max(manifest.evidence["fp32_torch_max_abs"].values()) <= 1e-4
    plans = [json.loads(path.read_text()) for path in out.rglob("plan.json")]
    assert len(plans) == len(manifest.runtimes) and all(plan["rules"] for plan in plans)
    child = WITHOUT_TORCH.format(path=HERE, bundle=str(out), out=str(images))
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    from PIL import Image

    made = np.stack([np.asarray(Image.open(path)) for path in sorted(images.glob("*.png"))])
    wanted = to_uint8(torch_pipeline(load_generator(str(finished)).generator)(range(5, 8)))
    assert made.shape == wanted.shape and np.abs(made.astype(int) - wanted).max() <= 1
