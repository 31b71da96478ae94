"""The recipes of lcd, by image size (docs/methods/latent-consistency.md, E.4)."""

from __future__ import annotations

from .. import Family, Recipe, Tuning
from ..unet import UNetConfig
from .config import CoderConfig, LcdConfig
from .family import LatentConsistency
from .grow import grown


def photos32() -> Recipe:
    """32x32 RGB product photos: 3M parameters in all, latents of 16x16x4; see edgegen/zoo for what
    it gave on Fashion-MNIST.
    """
    return Recipe(LcdConfig(), images=3_584_000, batch=256, ema=0.999)


def tiny() -> Recipe:
    """A 16x16 toy that trains in seconds: for tests and first tries, not for pictures."""
    config = LcdConfig(
        size=16,
        classes=0,
        coder=CoderConfig((16, 32)),
        unet=UNetConfig((16, 32), patch=1, embedding=16),
        attend=(4,),
        head=16,
        context=16,
        tokens=2,
        timesteps=100,
        grid=20,
        guidance=1.0,
        perceptual=0.0,
    )
    return Recipe(config, images=3_200, batch=16, warmup=10, ema=0.9, precision="fp32")


def photos64() -> Recipe:
    """64x64 on one GPU with the published blocks: latents of 16x16x4, channels 64 and 128, two
    blocks; not trained yet.
    """
    config = LcdConfig(
        size=64,
        coder=CoderConfig((32, 64, 128), norm="group", activation="silu"),
        context=128,
        transformer="spatial",
        unet=UNetConfig(
            (64, 128), blocks=2, patch=1, norm="group", activation="silu", embedding=256
        ),
        attend=(16, 8),
        head=32,
    )
    return Recipe(config, images=10_000_000, batch=128, rate=2e-4, ema=0.9995)


def photos256() -> Recipe:
    """256x256 on GPUs with the published settings: latents of 32x32x4, channels 160, 320 and
    640; not trained yet.
    """
    config = LcdConfig(
        size=256,
        coder=CoderConfig((128, 128, 256, 512), blocks=2, norm="group", activation="silu"),
        context=384,
        unet=UNetConfig(
            (160, 320, 640), blocks=2, patch=1, norm="group", activation="silu", embedding=640
        ),
        attend=(32, 16, 8),
        head=32,
        transformer="spatial",
    )
    return Recipe(config, images=100_000_000, batch=256, rate=1e-4, warmup=10_000, ema=0.9999)


FAMILY = Family(
    "lcd",
    LcdConfig,
    LatentConsistency,
    {"photos32": photos32, "tiny": tiny, "photos64": photos64, "photos256": photos256},
    Tuning(
        grown,
        ("autoencoder.*", "teacher.*", "student.*", "target.*"),
        whole=("*.context.label",),
        rank=3,
        batch=64,
        rate=6e-3,
    ),
)
