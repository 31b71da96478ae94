"""isc-gan through `edgegen export` to a proven bundle for every runtime, as a user types it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from test_isc_gan import TINY, generator
from toys import shapes

from edgegen.cli.main import run
from edgegen.core.bundle import Bundle
from edgegen.core.files import to_json
from edgegen.core.runtime import Pipeline
from edgegen.evidence import reference
from edgegen.evidence.features import feature_network
from edgegen.export import runtime
from edgegen.training import checkpoint

pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a conditional generator, noise and all, as `edgegen train` leaves it."""
    folder, photos = tmp_path_factory.mktemp("isc") / "run", shapes(64)
    folder.mkdir()
    config = replace(TINY, classes=2)
    data = {"sha256": photos.fingerprint, "images": len(photos), "classes": ["disc", "box"]}
    (folder / "run.json").write_bytes(
        to_json({**checkpoint.describe("isc-gan", config), "data": data})
    )
    (folder / checkpoint.WEIGHTS).write_bytes(
        checkpoint.to_bytes(dict(generator(config).shipped.state_dict()))
    )
    network = feature_network("efficientnet-lite0", size=tiny.SIZE)
    reference.build(network(photos.pixels), network, "shapes", 8).write(
        folder / "reference.safetensors"
    )
    return folder


def test_export_proves_a_bundle_without_timesteps(finished: Path, tmp_path: Path) -> None:
    """Calibration, ladder and manifest hold one timestep 0; images are the same seed by seed, and
    the label matters.
    """
    out = tmp_path / "bundle"
    assert tiny.export(finished, out) == 0
    bundle = Bundle.open(out)
    manifest = bundle.manifest
    assert sorted(manifest.runtimes) == sorted(tiny.RUNTIMES.split(","))
    assert manifest.calibration["samples_at_timestep"] == {
        "mapping": {"0": 32},
        "synthesis": {"0": 32},
    }
    assert all(
        manifest.evidence["runtimes"][name]["verdict"] == "within" for name in manifest.runtimes
    )
    assert max(manifest.evidence["fp32_torch_max_abs"].values()) <= 1e-4
    for name in ("onnxruntime", "openvino"):
        assert runtime(name).cannot_run() is None
        load = manifest.runtimes[name].load
        assert set(load) == {"mapping", "synthesis"}
    assert (
        run(["generate", str(out), "-n", "4", "--label", "1", "-o", str(tmp_path / "grid.png")])
        == 0
    )
    assert run(["verify", str(out), "--files-only"]) == 0


def test_a_label_changes_the_image(finished: Path) -> None:
    from edgegen.workflows.generators import load_generator, torch_pipeline

    pipeline = torch_pipeline(load_generator(str(finished)).generator)
    assert isinstance(pipeline, Pipeline)
    disc, box = pipeline(range(4), 0), pipeline(range(4), 1)
    assert np.abs(disc - box).mean() > 1e-3 and np.array_equal(pipeline(range(4))[1], box[1])
