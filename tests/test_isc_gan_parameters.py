"""isc-gan's parameters (docs/methods/isc-gan.md, A.3, test 3): the counts of A.2.5 and A.2.6."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from edgegen.families.isc_gan.config import IscGanConfig, widths
from edgegen.families.isc_gan.synthesis import StyleGan, SynthesisBlock

FULL = IscGanConfig()  # C32-full of A.2.5
C32_SMALL = replace(FULL, z_dim=256, w_dim=256, widths=(256, 256, 256, 128))
P256 = replace(
    FULL, size=256, mapping_layers=8, widths=widths(256, 16_384), critic_widths=widths(256, 16_384)
)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def generator_count(config: IscGanConfig, **change: Any) -> int:
    with torch.device("meta"):
        return count(StyleGan(replace(config, **change)))


@pytest.mark.parametrize(
    ("config", "skip", "isc"),
    [
        (
            FULL,
            19_947_539,
            {(4, 8): 16_405_141, (4, 4): 15_617_942, (8, 8): 14_765_653, (8, 4): 13_322_710},
        ),
        (
            C32_SMALL,
            4_189_331,
            {(4, 8): 3_659_701, (4, 4): 3_462_710, (8, 8): 3_309_029, (8, 4): 2_948_006},
        ),
        (
            P256,
            24_767_458,
            {(4, 8): 22_049_719, (4, 4): 21_262_520, (8, 8): 19_839_983, (8, 4): 18_397_040},
        ),
    ],
)
def test_generators_have_their_parameters(
    config: IscGanConfig, skip: int, isc: dict[tuple[Any, Any], int]
) -> None:
    assert generator_count(config, connection="skip") == skip
    for (ratio, first), wanted in isc.items():
        assert generator_count(config, ratio=ratio, isc_min_res=first) == wanted
    assert all(generator_count(config, ratio=r) < skip for r in (4, 8, 16))


@pytest.mark.parametrize(("config", "wanted"), [(FULL, 22_044_695), (C32_SMALL, 4_615_319)])
def test_a_ratio_of_two_does_not_pay(config: IscGanConfig, wanted: int) -> None:
    """ISC at every block with the tail kept: what the last block would add is a block's that is not
    the last.
    """
    config = replace(config, ratio=2, isc_min_res=4)
    with torch.device("meta"):
        tail = count(SynthesisBlock(config, 3, last=False)) - count(
            SynthesisBlock(config, 3, last=True)
        )
    assert generator_count(config) + tail == wanted > generator_count(config, connection="skip")


@pytest.mark.parametrize(
    ("config", "ratio", "level", "skip", "parts"),
    [
        (
            FULL,
            8,
            0,
            2_894_852,
            {
                "squeeze": 557_633,
                "colours": 33_027,
                "excite": 328_257,
                "fuse": 524_800,
                "": 1_451_909,
            },
        ),
        (
            FULL,
            8,
            1,
            5_509_125,
            {
                "conv0": 2_622_465,
                "squeeze": 557_633,
                "colours": 33_027,
                "excite": 328_257,
                "": 4_066_182,
            },
        ),
        (FULL, 4, 2, 5_509_125, {"squeeze": 852_609, "colours": 66_051, "excite": 656_001}),
        (FULL, 8, 3, 5_509_125, {"": 3_213_125}),
        (
            C32_SMALL,
            4,
            0,
            726_532,
            {
                "squeeze": 213_313,
                "colours": 16_643,
                "excite": 164_161,
                "fuse": 131_328,
                "": 529_541,
            },
        ),
        (C32_SMALL, 4, 1, 1_378_309, {"conv0": 655_873, "": 1_181_318}),
        (
            C32_SMALL,
            4,
            3,
            574_597,
            {"conv0": 360_833, "squeeze": 69_793, "colours": 8_323, "": 438_949},
        ),
        (P256, 8, 3, 5_509_125, {"": 4_066_182}),
        (
            P256,
            8,
            4,
            2_296_069,
            {
                "conv0": 1_442_561,
                "squeeze": 205_089,
                "colours": 16_515,
                "excite": 90_401,
                "fuse": 131_328,
                "": 1_885_894,
            },
        ),
        (
            P256,
            8,
            5,
            705_669,
            {
                "conv0": 426_369,
                "squeeze": 84_113,
                "colours": 8_259,
                "excite": 26_769,
                "fuse": 32_896,
                "": 578_406,
            },
        ),
        (P256, 8, 6, 242_245, {"conv0": 139_457, "squeeze": 37_449, "colours": 4_131, "": 181_037}),
    ],
)
def test_blocks_have_their_parameters(
    config: IscGanConfig, ratio: int, level: int, skip: int, parts: dict[str, int]
) -> None:
    last = level == len(config.widths) - 1
    with torch.device("meta"):
        isc = SynthesisBlock(replace(config, ratio=ratio, isc_min_res=4), level, last)
        assert count(SynthesisBlock(replace(config, connection="skip"), level, last)) == skip
    for name, wanted in parts.items():
        assert count(isc.get_submodule(name)) == wanted, name


@pytest.mark.parametrize(
    ("config", "level", "parts"),
    [
        (FULL, 0, {"conv1": 2_622_465, "colours": 264_195}),
        (FULL, 3, {"conv0": 2_622_465, "conv1": 2_622_465, "colours": 264_195}),
        (C32_SMALL, 0, {"conv1": 655_873, "colours": 66_563}),
        (C32_SMALL, 3, {"conv0": 360_833, "conv1": 180_481, "colours": 33_283}),
        (P256, 4, {"conv0": 1_442_561, "conv1": 721_409, "colours": 132_099}),
        (P256, 5, {"conv0": 426_369, "conv1": 213_249, "colours": 66_051}),
        (P256, 6, {"conv0": 139_457, "conv1": 69_761, "colours": 33_027}),
    ],
)
def test_skip_blocks_have_their_parameters(
    config: IscGanConfig, level: int, parts: dict[str, int]
) -> None:
    with torch.device("meta"):
        skip = SynthesisBlock(
            replace(config, connection="skip"), level, level == len(config.widths) - 1
        )
        # 4x4 is as StyleGAN2 has it from isc_min_res = 8 on
        standard = SynthesisBlock(config, 0, last=False)
        assert count(standard) == count(
            SynthesisBlock(replace(config, connection="skip"), 0, last=False)
        )
    for name, wanted in parts.items():
        assert count(skip.get_submodule(name)) == wanted, name
    assert (skip.start is None) == (level > 0) and (
        level > 0 or skip.start.numel() == 16 * config.widths[0]  # type: ignore[union-attr]
    )


@pytest.mark.parametrize(("width", "pays"), [(304, False), (320, True)])
def test_a_modulated_fuse_pays_for_wide_blocks_only(width: int, pays: bool) -> None:
    """With w = 512 and r = 4 a block saves only when c > 307 (A.2.4)."""
    config = IscGanConfig(widths=(width,) * 4, critic_widths=(16,) * 4, fuse="modulated")
    with torch.device("meta"):
        squeeze, skip = (
            count(SynthesisBlock(replace(config, connection=c), 1, last=False))
            for c in ("squeeze", "skip")
        )
    assert (squeeze < skip) is pays


def test_a_modulated_fuse_has_styles_of_its_own() -> None:
    """+ (w + 1) 2c a block (A.2.4)."""
    extra = generator_count(FULL, fuse="modulated") - generator_count(FULL)
    assert extra == 2 * (512 + 1) * 2 * 512
