"""The recipes of cas-dm, by image size (docs/methods/cas-dm.md, C.4)."""

from __future__ import annotations

from .. import Family, Recipe, Tuning
from ..unet import UNetConfig
from .config import CasDmConfig
from .family import CasDm
from .grow import grown

WARMUP = 0.1  # share of phi's steps before the metric's loss joins (C.2.8)
AUGMENT = 0.12  # the value of Karras et al. (2022) for small data sets


def photos32() -> Recipe:
    """32x32 RGB product photos, two networks of 1.5M parameters; see edgegen/zoo for what it gave
    on Fashion-MNIST.
    """
    return Recipe(CasDmConfig(metric_warmup=WARMUP), images=960_000)


def objects32() -> Recipe:
    """32x32 coloured objects on white (`make data`), the base that products are adapted from.

    Three levels: most weights lie at 4x4, where they cost little time, and a picture is seen as a
    whole. theta first (`--only theta`), then phi on what theta became (`--set mode=frozen --only
    phi --init`): a phi that is not trained changes nothing. Batches of 32 and FP32, for processors
    without BF16, on which it takes three times as long. Not measured yet.
    """
    config = CasDmConfig(
        theta=UNetConfig((48, 96, 192), embedding=128),
        phi=UNetConfig((32, 64)),
        metric_warmup=WARMUP,
        augment=AUGMENT,
    )
    return Recipe(config, images=960_000, batch=32, ema=0.9995, precision="fp32")


def objects64() -> Recipe:
    """The same objects at 64x64: a level more, so that the finest is as coarse as a patch of 2
    allows. Not trained yet.
    """
    config = CasDmConfig(
        size=64,
        theta=UNetConfig((32, 64, 128, 128), embedding=128),
        phi=UNetConfig((16, 32, 64)),
        metric_warmup=WARMUP,
        augment=AUGMENT,
    )
    return Recipe(config, images=960_000, batch=32, ema=0.9995, precision="fp32")


def tiny() -> Recipe:
    """A 16x16 toy that trains in seconds: for tests and first tries, not for pictures."""
    net = UNetConfig(widths=(16, 32), embedding=16)
    config = CasDmConfig(
        size=16, classes=0, theta=net, phi=net, schedule="linear", timesteps=100, steps=4
    )
    return Recipe(config, images=3_200, batch=16, warmup=10, ema=0.9, precision="fp32")


def photos64() -> Recipe:
    """64x64 on one GPU: like improved-diffusion, with its channels for 64 px; not trained yet."""
    config = CasDmConfig(
        size=64,
        theta=UNetConfig(
            (128, 256, 384, 512), blocks=3, patch=1, attention=True, embedding=512, dropout=0.3
        ),
        phi=UNetConfig((64, 128, 192, 256), blocks=3, patch=1, attention=True, embedding=256),
        timesteps=4000,
        metric="pdist",
        metric_warmup=WARMUP,
        steps=50,
    )
    return Recipe(config, images=128 * 500_000, batch=128, rate=1e-4, warmup=5_000, ema=0.9999)


def photos256() -> Recipe:
    """256x256 in pixels on GPUs, a budget of 100,000 steps; not trained yet."""
    config = CasDmConfig(
        size=256,
        theta=UNetConfig(
            (128, 128, 256, 256, 512, 512), blocks=2, patch=1, attention=True, embedding=512
        ),
        phi=UNetConfig((64, 64, 128, 128, 256, 256), patch=1, attention=True, embedding=256),
        schedule="linear",
        metric="pdist",
        metric_warmup=WARMUP,
        steps=100,
    )
    return Recipe(config, images=64 * 100_000, batch=64, rate=1e-4, warmup=5_000, ema=0.9999)


FAMILY = Family(
    "cas-dm",
    CasDmConfig,
    CasDm,
    {
        "photos32": photos32,
        "objects32": objects32,
        "objects64": objects64,
        "tiny": tiny,
        "photos64": photos64,
        "photos256": photos256,
    },
    Tuning(grown, whole=("*.embed.label",), rate=8e-3),
)
