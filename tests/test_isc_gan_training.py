"""isc-gan trains with either connection (docs/methods/isc-gan.md, A.3 test 9): a short look here,
the comparison is benchmarks/isc_gan.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_isc_gan import TINY, generator
from toys import shapes

from edgegen.families.isc_gan.config import Regularizers
from edgegen.families.isc_gan.family import FAMILY, IscGan
from edgegen.training.loop import Trainer
from edgegen.workflows.generators import torch_pipeline

pytestmark = pytest.mark.slow

BASE = replace(
    TINY,
    widths=(32, 64, 32),
    noise=False,
    up="after",
    regularizers=Regularizers(r1_gamma=0.5, ada_kimg=5.0),
)
PHOTOS = shapes(128, 16)
REAL = PHOTOS.pixels.transpose(0, 3, 1, 2) / 127.5 - 1


def distance(made: IscGan) -> float:
    """Between the mean and the spread of 64 images and of the photos, pixel by pixel."""
    made.networks.eval()
    images = torch_pipeline(made)(range(64))
    made.networks.train()
    assert np.isfinite(images).all()
    return float(sum(np.square(of(images, 0) - of(REAL, 0)).mean() for of in (np.mean, np.std)))


@pytest.mark.parametrize(
    ("change", "seeds"),
    [({"connection": "skip"}, (0, 1)), ({"ratio": 4}, (1,)), ({"ratio": 8}, (2,))],
    ids=["skip", "r4", "r8"],
)
def test_9_training_moves_towards_the_data_and_stays_finite(
    change: dict[str, Any], seeds: tuple[int, ...]
) -> None:
    """Coloured shapes, bf16: no step skipped, no NaN, and every run comes nearer to the photos."""
    config = replace(BASE, **change)
    assert config.squeezed(64) == 64 // config.ratio
    for seed in seeds:
        made = generator(config, seed)
        recipe = replace(
            FAMILY.recipes["tiny"](),
            config=config,
            images=8 * 40,
            batch=8,
            precision="bf16",
            warmup=5,
        )
        before = distance(made)
        trainer = Trainer.start(made, recipe, PHOTOS, seed)
        reports = list(trainer.run())
        assert trainer.skipped == 0 and all(np.isfinite(list(r.values())).all() for r in reports)
        assert distance(made) < 0.8 * before, (seed, before, distance(made))
