"""Features on a runtime: torch's, and the same for any number of workers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgegen.evidence import networks
from edgegen.evidence.features import FeatureNetwork, feature_network
from edgegen.export import packages, runtime
from edgegen.workflows.fast_features import fast_features

IMAGES = np.random.default_rng(3).integers(0, 256, (19, 32, 32, 3)).astype(np.uint8)


@pytest.mark.parametrize("host", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("size", [32, 47, 128])
def test_features_are_those_of_torch(size: int, host: str) -> None:
    network = feature_network("efficientnet-lite0", size=size)
    fast = fast_features(network, runtime(host))
    assert fast.forward is not network.forward
    assert (fast.name, fast.sha256, fast.size, fast.dim) == (
        network.name,
        network.sha256,
        size,
        1280,
    )
    wanted = network(IMAGES)
    np.testing.assert_allclose(fast(IMAGES), wanted, atol=1e-4 * np.abs(wanted).max())


def test_features_do_not_depend_on_the_number_of_workers() -> None:
    fast = replace(fast_features(feature_network("efficientnet-lite0", size=32)), batch=4)
    one = fast(IMAGES)
    torch.set_num_threads(3)
    assert fast(IMAGES).tobytes() == one.tobytes()


def test_other_networks_and_machines_without_the_runtime_keep_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))

    other = FeatureNetwork("other", "00", 32, 3, forward)
    assert fast_features(other) is other
    network = feature_network("efficientnet-lite0", size=32)
    assert isinstance(network.forward, networks.Lite0)
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    assert fast_features(network) is network
