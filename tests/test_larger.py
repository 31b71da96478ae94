"""Fine-tuning at more pixels than the base has: every family, with adapters and with every weight;
what is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import adapters
import numpy as np
import pytest
import tiny
import torch
import toys
from adapting import PEFT
from PIL import Image
from runs import nothing
from sites import go, photo_files
from torch import nn
from torch.nn import functional as F
from toys import shapes

from edgegen.cli.main import run
from edgegen.core.runtime import Pipeline
from edgegen.errors import TrustError
from edgegen.evidence import features
from edgegen.export import runtime
from edgegen.export.onnx import to_onnx, write
from edgegen.families import FAMILIES, family
from edgegen.families.cas_dm.networks import wiener
from edgegen.families.dkgm.debias import Restorer, deviation
from edgegen.families.isc_gan.layers import up2
from edgegen.families.unet import GRAIN, detail
from edgegen.training import digests
from edgegen.training import run as runs
from edgegen.training.adapt import site
from edgegen.training.run import RunSettings, train
from edgegen.workflows.finetune import periodic_eval
from edgegen.workflows.finetune.base import open_base
from edgegen.workflows.finetune.settings import FinetuneSettings
from edgegen.workflows.finetune.setup import choose
from edgegen.workflows.generators import torch_pipeline

pytestmark = [PEFT, pytest.mark.slow]
SIZE, LARGER = 16, 32


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_files(tmp_path_factory.mktemp("photos"), LARGER)


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """Few images, and features of as few pixels as the network takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            features, "feature_network", partial(features.feature_network, size=tiny.SIZE)
        )
        patch.setattr(periodic_eval, "EVALUATION_IMAGES", 16)
        patch.setattr(periodic_eval, "FINAL_IMAGES", 16)
        yield


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return based(request.param, tmp_path_factory.mktemp(request.param) / "base")


def based(name: str, folder: Path, images: int = 128) -> Path:
    recipe = replace(family(name).recipes["tiny"](), images=images, batch=8, warmup=2)
    train(RunSettings(name, "tiny", recipe), shapes(64, SIZE), folder, False, 24, nothing)
    return folder


@pytest.fixture(scope="module")
def adapted(base: Path, photos: Path) -> Path:
    out = base.with_name("site")
    assert go(base, out, photos, "--size", str(LARGER), "--steps", "6", "--looks", "1") == 0
    return out


def test_a_larger_run_is_described_held_to_its_size_merged_and_drawn(
    base: Path, adapted: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = json.loads((adapted / "run.json").read_text())
    assert about["config"]["size"] == about["finetune"]["size"] == LARGER
    found = open_base(str(base))
    assert choose(FinetuneSettings(), None, found).size == SIZE
    assert choose(FinetuneSettings(), adapted, found).size == LARGER
    assert go(base, adapted, photos, "--resume", "--size", str(2 * LARGER)) == 2
    assert (
        "E-RESUME-MISMATCH" in (said := capsys.readouterr().err)
        and "another size" in said
        and "then 32, now 64" in said
    )
    assert run(["merge", str(adapted), "-o", str(tmp_path / "merged"), "--json"]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["max_abs_difference"] <= 1e-5
    assert run(["generate", str(tmp_path / "merged"), "-n", "1", "-o", str(tmp_path / "one")]) == 0
    with Image.open(next((tmp_path / "one").glob("*.png"))) as image:
        assert image.size == (LARGER, LARGER)


def test_peft_alone_reads_the_adapter(adapted: Path) -> None:
    import peft

    about, generator = runs.load(adapted)
    plain = site.plain(family(about["family"]), generator.config, site.master(adapted, about))
    loaded = (
        peft.PeftModel.from_pretrained(plain.networks, adapted / "adapter")
        .merge_and_unload()
        .state_dict()
    )
    for key, tensor in generator.networks.state_dict().items():
        torch.testing.assert_close(loaded[key], tensor, rtol=1e-6, atol=1e-6)


def test_what_the_base_did_not_have_is_trained_and_ships(base: Path, adapted: Path) -> None:
    """Nothing of it stays as it began; the rest of the base keeps its weights under the adapter."""
    about, generator = runs.load(adapted)
    new = open_base(str(base)).grown_to(LARGER, 0).new_modules
    began, now = site.read_base(adapted, about), generator.networks.state_dict()
    shipped = [
        name
        for name in now
        if name.startswith(tuple(f"{module}." for module in new)) and "discriminator" not in name
    ]
    assert bool(shipped) == bool(new)
    for name in shipped:
        assert not torch.equal(now[name], began[name]) or "strength" in name, name
    assert {name.partition(".")[0] for name in open_base(str(base)).tensors} <= {
        name.partition(".")[0] for name in began
    }


def test_graphs_of_the_larger_run_are_what_torch_computes(adapted: Path, tmp_path: Path) -> None:
    _, generator = runs.load(adapted)
    load = runtime("onnxruntime").load
    sessions = {
        name: load(write(to_onnx(graph, name), tmp_path / f"{name}.onnx"), 1)
        for name, graph in generator.graphs().items()
    }
    wanted = torch_pipeline(generator)(range(4))
    assert wanted.shape == (4, 3, LARGER, LARGER) and wanted.std() > 0.01
    np.testing.assert_allclose(
        Pipeline(generator.latent, generator.sampler, sessions)(range(4)), wanted, atol=1e-4
    )


def test_every_weight_at_twice_the_size(base: Path, photos: Path) -> None:
    out = base.with_name("whole")
    assert go(base, out, photos, "--size", str(LARGER), "--rank", "0", "--looks", "1") == 0
    _, generator = runs.load(out)
    assert generator.image_shape == (3, LARGER, LARGER) and not (out / "adapter").exists()


# on one family, or without a run


def test_an_adapter_of_another_size_is_refused(tmp_path: Path) -> None:
    own = adapters.run("cas-dm", tmp_path / "own", 4)
    base = based("cas-dm", tmp_path / "base")
    larger = open_base(str(base)).grown_to(LARGER, 0)
    adapters.adapted("cas-dm").adapter(site.digest(larger.tensors)).write(own / "adapter")
    (own / digests.FILE).unlink()  # somebody else's adapter, not a copy that went wrong
    with pytest.raises(TrustError, match="E-ADAPTER-BASE"):
        runs.load(own)


@pytest.mark.parametrize(
    "name, size, said",
    [
        ("cas-dm", 16, "cas-dm makes images of 32 x 32 pixels: --size must be 32 or more, got 16"),
        (
            "cas-dm",
            50,
            "cas-dm cannot make images of 50 x 50 pixels: it can draw 32 times a whole number",
        ),
        (
            "dkgm",
            48,
            "dkgm cannot make images of 48 x 48 pixels: it can draw 32 times a whole number",
        ),
        (
            "lcd",
            33,
            "lcd cannot make images of 33 x 33 pixels: it can draw 32 times a whole number",
        ),
        (
            "isc-gan",
            96,
            "isc-gan cannot make images of 96 x 96 pixels: it can draw 32 times a power of two",
        ),
    ],
)
def test_sizes_that_cannot_be(
    name: str,
    size: int,
    said: str,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert go(name, tmp_path / "out", photos, "--size", str(size)) == 2
    assert f"error[E-SIZE] {said}" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("connection", ["squeeze", "skip"])
@pytest.mark.parametrize("critic", ["plain", "residual"])
def test_an_isc_gan_begins_as_it_was_upsampled(
    connection: Literal["squeeze", "skip"], critic: Literal["plain", "residual"]
) -> None:
    """Twice doubled: the images of the small one, larger, and its opinion of means; R1 of them
    stays, too.
    """
    found = family("isc-gan")
    config = replace(
        found.recipes["tiny"]().config, connection=connection, critic=critic, classes=2
    )
    torch.manual_seed(0)
    small = found.build(config)
    toys.shake(small.networks, 1, 0.1)
    grown = found.tuning.grow(config, small.networks.state_dict(), 4 * SIZE)
    whole = tuple(f"{name}." for name in grown.whole)
    large = site.plain(
        found, grown.config, site.fitted(found, grown.config, grown.tensors, 2, 0, Path())
    )
    assert grown.tensors.keys() == large.networks.state_dict().keys()
    new = {
        name
        for name in grown.tensors.keys() - small.networks.state_dict().keys()
        if name.startswith("generator.")
    }
    assert new and all(name.startswith(whole) for name in new)
    x, label = torch.randn(3, config.z_dim), torch.eye(2)[[0, 1, 1]]
    photos = torch.rand(3, 3, 4 * SIZE, 4 * SIZE).requires_grad_()
    mean = F.avg_pool2d(photos, 4).detach().requires_grad_()
    small.networks.eval()
    torch.testing.assert_close(
        large.networks["generator"](x, label), up2(up2(small.networks["generator"](x, label)))
    )
    one, two = (
        small.networks["discriminator"](mean, label),
        large.networks["discriminator"](photos, label),
    )
    torch.testing.assert_close(one, two)
    slopes = [
        torch.autograd.grad(scores.sum(), seen)[0].square().sum()
        for scores, seen in ((one, mean), (two, photos))
    ]
    torch.testing.assert_close(
        slopes[0] * config.regularizers.r1_gamma, slopes[1] * grown.config.regularizers.r1_gamma
    )


@pytest.mark.parametrize(
    "name, parts",
    [("cas-dm", ("theta", "phi")), ("dkgm", ("debias", "coarse")), ("lcd", ("autoencoder",))],
)
def test_the_others_begin_as_what_they_were_of_means(name: str, parts: tuple[str, ...]) -> None:
    """A network between means of 2x2 pixels and copies of each, whatever it is given beside
    them.
    """
    found = family(name)
    config = found.recipes["tiny"]().config
    torch.manual_seed(0)
    small = found.build(config)
    toys.shake(small.networks, 1, 0.1)
    grown = found.tuning.grow(config, small.networks.state_dict(), LARGER)
    large = site.plain(
        found, grown.config, site.fitted(found, grown.config, grown.tensors, 0, 0, Path())
    )
    assert (
        grown.tensors.keys()
        == small.networks.state_dict().keys()
        == large.networks.state_dict().keys()
    )
    small.networks.eval()
    x, t = 0.3 * torch.randn(3, 3, LARGER, LARGER), torch.tensor([0.2, 0.5, 1.0])

    def said(nets: nn.ModuleDict, x: torch.Tensor) -> list[torch.Tensor]:
        with torch.no_grad():
            made = {
                "theta": lambda net: net(x, 100 * t),
                "phi": lambda net: net(x / 2, x, 100 * t)[:, :3] - x / 2,
                "debias": lambda net: net(x, t, None, None),
                "coarse": lambda net: net(x, None),
                "autoencoder": lambda net: net.decoder(net.mode(x)),
            }
            return [made[part](nets[part]) for part in parts]

    for part, one, two in zip(
        parts, said(small.networks, F.avg_pool2d(x, 2)), said(large.networks, x), strict=True
    ):
        torch.testing.assert_close(one, F.avg_pool2d(two, 2), rtol=1e-4, atol=1e-5)
        fine = float(detail(two, 2).abs().max())
        assert fine > 0.1 if part in ("theta", "debias") else fine < 1e-5, (
            "noise finer than the means goes where there is some"
        )


@pytest.mark.parametrize("kind", ["v", "epsilon"])
def test_what_a_stretched_theta_begins_with_is_the_best_for_white_noise(kind: str) -> None:
    rng = np.random.default_rng(0)
    x0, eps = GRAIN * rng.normal(size=400_000), rng.normal(size=400_000)
    signal = np.array([0.02, 0.5, 0.97, 0.999])
    for a, found in zip(signal, wiener(kind, signal), strict=True):
        x = a**0.5 * x0 + (1 - a) ** 0.5 * eps
        wanted = eps if kind == "epsilon" else a**0.5 * eps - (1 - a) ** 0.5 * x0
        assert found == pytest.approx((wanted * x).mean() / (x * x).mean(), rel=0.02)


def test_what_a_stretched_stage_2_begins_with_is_the_best_for_white_noise() -> None:
    config = replace(family("dkgm").recipes["tiny"]().config, stretch=2)
    net = Restorer(config).eval()
    net.spread.fill_(0.4)
    nn.init.zeros_(net.trunk.head.weight)
    x0, xi = GRAIN * torch.randn(1, 3, 512, 512), torch.randn(1, 3, 512, 512)
    for t in (0.05, 0.5, 0.95):
        noise = config.noise * (t * (1 - t)) ** 0.5 * xi
        fine, wanted = (
            detail(x0 + noise, 2),
            detail(noise, 2) / deviation(torch.tensor(t), 0.4, config.noise),
        )
        with torch.no_grad():
            found = net(x0 + noise, torch.tensor([t]), None, None)
        torch.testing.assert_close(
            found, fine * (fine * wanted).sum() / fine.square().sum(), rtol=0.03, atol=1e-3
        )
    assert not net.clean(x0, torch.zeros(1), None, None).isnan().any()


def test_a_bank_is_upsampled_and_its_draws_have_the_same_means() -> None:
    dkgm = family("dkgm")
    config = dkgm.recipes["tiny"]().config
    values = torch.arange(SIZE, dtype=torch.uint8).repeat(1, config.exemplars, 3 * SIZE)
    grown = dkgm.tuning.grow(
        config, {**dkgm.build(config).networks.state_dict(), "bank.values": values}, LARGER
    )
    rows = grown.tensors["bank.values"].reshape(-1, LARGER)
    assert (
        rows.shape == (config.exemplars * 3 * LARGER, LARGER)
        and (rows[0].diff() >= 0).all()
        and rows[0].max() == SIZE - 1
    )
    assert grown.config.bandwidth == 2 * config.bandwidth


def test_latents_and_codes_stay_as_they_are() -> None:
    dkgm, lcd = family("dkgm"), family("lcd").recipes["photos32"]().config
    large = family("lcd").tuning.grow(lcd, {}, 64).config
    assert (large.side, large.attended) == (lcd.side, lcd.attended)
    config = replace(dkgm.recipes["tiny"]().config, mode="latent")
    small = dkgm.build(config)
    grown = dkgm.tuning.grow(config, small.networks.state_dict(), LARGER)
    assert grown.config.vector == config.vector and grown.tensors["bank.values"].equal(
        small.networks.state_dict()["bank.values"]
    )
    site.fitted(dkgm, grown.config, grown.tensors, 0, 0, Path())
    assert "encoder.stem" in grown.whole and "coarse.head" in grown.whole
