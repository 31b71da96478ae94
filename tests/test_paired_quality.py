"""Faults are planted in INT8 images, and pairs of equal seeds find each, by the gate for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benched import images, near, quality, toy

from edgegen.core.bundle import Bundle
from edgegen.core.images import to_uint8
from edgegen.core.samplers import stopped
from edgegen.core.seeds import BENCH_PAIRS
from edgegen.evidence import paired_quality
from edgegen.evidence.bench_rows import state_and_why
from edgegen.evidence.paired_quality import PairLimits, PairSides, pairs_here, state_of
from edgegen.export import runtime

FEW_RUINED = PairLimits(ruined=0.5)  # which sixteen pairs can show
SEEDS = BENCH_PAIRS.take(16)


def found(full: np.ndarray, other: np.ndarray, limits: Any = FEW_RUINED, classes: Any = ()) -> Any:
    return pairs_here(PairSides("onnxruntime FP32", 100, full, other, classes), limits)


def test_sound_pairs_are_within_and_equal_ones_have_no_psnr() -> None:
    sound = quality(2, 16, FEW_RUINED)
    assert state_of(sound) == "within" and sound.ruined == 0
    assert sound.psnr_db == pytest.approx(42.1, abs=0.1)
    assert sound.psnr_low_db is not None and 42 < sound.psnr_low_db < 42.2
    equal = quality(0, 16, FEW_RUINED)
    assert equal.psnr_db is None and equal.same_pixels == 1 and state_of(equal) == "within"


def test_few_pairs_do_not_show_that_few_are_ruined() -> None:
    few = quality(2, 16)
    state, why = state_and_why(few, False)
    assert state == "undecided" and few.ruined_needs == 1497
    assert why == (
        "none of 16 pairs is ruined, which shows at most 17.07%; the 0.20% asked take --pairs 1497"
    )


def test_one_pair_of_500_that_is_ruined_is_found() -> None:
    full = images(500, 8)
    other = near(full, 2)
    limits = PairLimits(ruined=0.0075)
    assert state_of(found(full, other, limits)) == "within"
    other[123] = 255 - other[123]
    bad = found(full, other, limits)
    assert bad.ruined == 1 and bad.worst_seed == 223 and bad.worst_pairs[0].ruined
    assert bad.ruined_state == "undecided" and bad.ruined_at_most == pytest.approx(
        0.00945, abs=1e-4
    )
    assert state_of(bad) == "undecided", "by the ruined pair alone"
    other[:20] = 255 - other[:20]
    assert found(full, other, limits).ruined_state == "outside"


def test_one_class_that_is_damaged_is_found_by_its_name() -> None:
    full = images(100, 8)
    other = near(full, 2)
    names = tuple("abcdefghij")
    assert state_of(found(full, other, classes=names)) == "within"
    other[3::10] = near(full[3::10], 8)  # seed 103 shows class 3
    bad = found(full, other, classes=names)
    assert bad.psnr_state == "within" and bad.ruined_state == "within"
    assert bad.worst_class.name == "d" and bad.worst_class.state == "outside"
    assert state_and_why(bad, False) == ("outside", "class d has a PSNR of 30.1 dB")


def test_full_precision_elsewhere_is_the_same_or_not() -> None:
    full = images(16, 16)
    assert state_and_why(found(full, near(full, 1)), True) == ("within", "")
    state, why = state_and_why(found(full, near(full, 2)), True)
    assert state == "outside" and "0.00% of its pixels are those of onnxruntime FP32" in why


def test_without_full_precision_nothing_is_said() -> None:
    state, why = state_and_why(None, False)
    assert state == "undecided" and "no pairs were made" in why


def int8(folder: Path) -> Any:
    return Bundle.open(folder, made_here=True).pipeline(runtime("onnxruntime"), "int8")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    opened = Bundle.open(toy(tmp_path_factory.mktemp("full") / "toy"), made_here=True)
    made: np.ndarray = to_uint8(opened.pipeline(runtime("onnxruntime"), "fp32")(SEEDS))
    return made


def scaled(held: dict[str, Any]) -> None:
    """One layer's weights count four times."""
    held["trunk.up.0.0.second.conv.weight.scale"] *= np.float32(4)


def swapped(held: dict[str, Any]) -> None:
    """A layer's channels out of order."""
    name = max((n for n, v in held.items() if v.dtype == np.int8), key=lambda n: held[n].size)
    held[name] = np.ascontiguousarray(np.roll(held[name], 1, axis=1))


@pytest.mark.parametrize("fault", [scaled, swapped])
def test_a_damaged_layer_is_outside(fault: Any, full: np.ndarray, tmp_path: Path) -> None:
    sound = found(full, to_uint8(int8(toy(tmp_path / "sound"))(SEEDS)))
    assert state_of(sound) == "within"
    bad = found(full, to_uint8(int8(toy(tmp_path / "bad", fault))(SEEDS)))
    assert bad.psnr_state == "outside" and state_of(bad) == "outside"


def test_a_wrong_last_step_is_outside(full: np.ndarray, tmp_path: Path) -> None:
    sound = int8(toy(tmp_path / "sound"))
    bad = found(full, to_uint8(replace(sound, sampler=stopped(sound.sampler, 1))(SEEDS)))
    assert state_of(bad) == "outside"


def test_swapped_colours_are_outside(full: np.ndarray) -> None:
    assert state_of(found(full, full[..., ::-1])) == "outside"


def _no_class(*_: Any) -> None:
    return None


GATES = {
    "psnr_state": lambda m: m.setattr(
        paired_quality,
        "_error_of",
        lambda db: 1.0 if db == FEW_RUINED.psnr_db else 10 ** (-db / 10),
    ),
    "ruined_state": lambda m: m.setattr(
        paired_quality, "ruined", lambda a, b: np.zeros(len(a), bool)
    ),
    "worst_class": lambda m: m.setattr(paired_quality, "_worst_class", _no_class),
}


def planted(fault: str) -> tuple[np.ndarray, np.ndarray]:
    """Full precision, and images with that fault alone: none of the other gates is for it."""
    full = images(500, 8)
    other = near(full, 2)
    if fault == "psnr_state":  # every image somewhat too far, none by itself beyond its class
        other = near(full, 6)
    elif fault == "ruined_state":
        other[123] = 255 - other[123]
    else:
        other[3::10] = near(full[3::10], 8)
    return full, other


@pytest.mark.parametrize("fault", GATES)
def test_without_its_gate_a_fault_would_be_within(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What finds it is the gate for it, and nothing else does by chance."""
    full, other = planted(fault)
    names, limits = tuple("abcdefghij"), PairLimits(ruined=0.0075)
    if fault == "ruined_state":  # which is far off in PSNR, too
        names, limits = (), PairLimits(20, 0.0075)
    assert state_of(found(full, near(full, 2), limits, names)) == "within"
    assert state_of(found(full, other, limits, names)) != "within"
    GATES[fault](monkeypatch)
    assert state_of(found(full, other, limits, names)) == "within"
