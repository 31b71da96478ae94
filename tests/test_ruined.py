"""Which pairs are ruined: labelled pairs, made here, of objects on even ground at 32 and 128 px."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter

from edgegen.evidence.ruined import RUINED_SIMILARITY, ruined, worst_region

Spoil = Callable[[np.ndarray], np.ndarray]
RNG = np.random.default_rng(0)


def objects(side: int = 32, count: int = 10) -> np.ndarray:
    """Bright shapes with parts and texture on dark ground, (n, side, side, 3) uint8."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j]
    out = []
    for _ in range(count):
        tall, wide, level = rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.4), rng.uniform(120, 230)
        body = (abs(y - 0.5) < tall) & (abs(x - 0.5) < wide)
        sole = (abs(y - 0.5 - tall) < 0.06) & (abs(x - 0.5) < wide)
        stripes = 25 * np.sin(x * rng.uniform(20, 60) + y * rng.uniform(0, 30))
        grey = np.where(body, level + stripes, 0) + np.where(sole, 90, 0)
        out.append(np.repeat(np.rint(grey.clip(0, 255))[..., None], 3, 2))
    return np.array(out).astype(np.uint8)


def levels(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def each(change: Callable[[Image.Image], Image.Image]) -> Spoil:
    return lambda x: np.stack([np.asarray(change(Image.fromarray(one))) for one in x])


def jpeg(image: Image.Image) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "jpeg", quality=90)
    return Image.open(out).convert("RGB")


def noise(sigma: float) -> Spoil:
    return lambda x: levels(x + RNG.normal(0, sigma, x.shape))


def hole(share: float) -> Spoil:
    """A square in the middle of the object is ground."""

    def cut(x: np.ndarray) -> np.ndarray:
        out, half = x.copy(), round(x.shape[1] * share / 2)
        middle = x.shape[1] // 2
        out[:, middle - half : middle + half, middle - half : middle + half] = 0
        return out

    return cut


def without_sole(x: np.ndarray) -> np.ndarray:
    out = x.copy()
    for image, spoilt in zip(x, out, strict=True):
        rows = np.flatnonzero(image.max((1, 2)) > 60)
        spoilt[rows[-1] - x.shape[1] // 10 :] = 0
    return out


RUINED: dict[str, Spoil] = {
    "another object": lambda x: np.roll(x, 1, 0),
    "lower half black": lambda x: np.where(np.arange(x.shape[1])[:, None, None] < 16, x, 0),
    "noise alone": lambda x: RNG.integers(0, 256, x.shape, dtype=np.uint8),
    "hole": hole(0.25),
    "no sole": without_sole,
    "negative": lambda x: 255 - x,
    "moved": lambda x: np.roll(x, x.shape[1] // 10, 2),
    "heavy noise": noise(25),
}
GOOD: dict[str, Spoil] = {
    "noise of 2": noise(2),
    "noise of 5": noise(5),
    "brighter by 4": lambda x: levels(x + 4.0),
    "less contrast": lambda x: levels((x - 128.0) * 0.97 + 128),
    "32 levels": lambda x: x // 8 * 8 + 4,
    "JPEG 90": each(jpeg),
    "slightly blurred": each(lambda i: i.filter(ImageFilter.GaussianBlur(0.3))),
    "the same": lambda x: x,
}


@pytest.mark.parametrize("side", [32, 128])
@pytest.mark.parametrize("name", RUINED)
def test_what_anybody_would_tell_apart_is_ruined(name: str, side: int) -> None:
    x = objects(side)
    assert ruined(x, RUINED[name](x)).mean() >= 0.9


@pytest.mark.parametrize("side", [32, 128])
@pytest.mark.parametrize("name", GOOD)
def test_what_rounding_does_is_not(name: str, side: int) -> None:
    x = objects(side)
    y = GOOD[name](x)
    assert not ruined(x, y).any()
    assert worst_region(x, y).min() > 0.5 + RUINED_SIMILARITY / 2, "far from the threshold"


def test_a_small_part_is_missed_by_the_mean_and_seen_by_the_region() -> None:
    """A hole of a twentieth of the side."""
    from edgegen.evidence.distances import psnr

    x = objects(128)
    y = hole(1 / 20)(x)
    assert psnr(x, y).min() > 25 and ruined(x, y).all()


def test_each_pair_is_judged_alone() -> None:
    x = objects()
    y = x.copy()
    y[5] = x[6]
    assert np.flatnonzero(ruined(x, y)).tolist() == [5]
    assert worst_region(x, x).min() == pytest.approx(1)
