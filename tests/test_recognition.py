"""Whether a classifier of the photos names generated images as what they were asked to be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from adapting import PEFT
from runs import nothing
from sites import go, photo_files
from toys import shapes

from edgegen.cli.finetune import _recognised
from edgegen.core.spec import Array
from edgegen.families import family
from edgegen.training import recognition
from edgegen.training.recognition import FEWEST, Recogniser, numbered
from edgegen.training.run import RunSettings, train
from edgegen.workflows.finetune import periodic_eval

CLASSES = 3


def features(labels: np.ndarray, seed: int, apart: float = 2.0) -> Array:
    """Clouds around a centre a class."""
    centres = np.random.default_rng(0).standard_normal((CLASSES, 20))
    noise = np.random.default_rng(seed).standard_normal((len(labels), 20))
    found: Array = (apart * centres[labels] + noise).astype(np.float32)
    return found


LABELS = np.arange(240) % CLASSES
TRAINED = Recogniser(features(LABELS, 1), LABELS, CLASSES)
HELD_OUT = features(LABELS, 2), LABELS


def test_images_like_the_photos_are_named_as_often() -> None:
    found = TRAINED.recognition((features(LABELS, 3), LABELS), HELD_OUT)
    assert found is not None and found.share is not None
    assert found.chance == pytest.approx(1 / 3) and found.classes == CLASSES
    assert found.held_out > 0.9
    assert found.share.low <= 1 <= found.share.high


def test_images_of_another_class_than_asked_are_below_chance() -> None:
    found = TRAINED.recognition((features((LABELS + 1) % CLASSES, 3), LABELS), HELD_OUT)
    assert found is not None and found.share is not None
    assert found.generated < 0.1 and found.share.high < 0


def test_images_that_show_nothing_are_at_chance() -> None:
    found = TRAINED.recognition((features(LABELS, 3, apart=0.0), LABELS), HELD_OUT)
    assert found is not None and found.share is not None
    assert found.share.low < 0.15 and found.share.high < 0.5


def test_one_class_for_all_is_worth_chance_however_many_photos_it_has() -> None:
    """Accuracy over all images would reward a generator that draws the largest class."""
    uneven = np.repeat([0, 1, 2], [200, 20, 20])
    held_out = features(uneven, 2), uneven
    always = np.zeros_like(uneven)
    found = TRAINED.recognition((features(always, 3), uneven), held_out)
    assert found is not None
    assert found.generated == pytest.approx(1 / 3, abs=0.05)


def test_a_share_of_nothing_is_not_told() -> None:
    noise = features(LABELS, 4, apart=0.0), LABELS
    blind = Recogniser(features(LABELS, 5, apart=0.0), LABELS, CLASSES)
    found = blind.recognition((features(LABELS, 3), LABELS), noise)
    assert found is not None and found.share is None
    words = _recognised(found.to_json())
    assert "your held-out photos are not told apart beyond chance either" in words


def test_classes_with_few_held_out_photos_are_not_counted() -> None:
    few = np.repeat([0, 1, 2], [50, 50, FEWEST - 1])
    found = TRAINED.recognition((features(LABELS, 3), LABELS), (features(few, 2), few))
    assert found is not None and found.classes == 2
    alone = np.repeat([0, 1], [50, FEWEST - 1])
    assert TRAINED.recognition((features(LABELS, 3), LABELS), (features(alone, 2), alone)) is None


def test_a_class_that_was_not_learnt_counts_for_nothing() -> None:
    unknown = np.where(LABELS == 2, -1, LABELS)
    found = TRAINED.recognition((features(LABELS, 3), LABELS), (HELD_OUT[0], unknown))
    assert found is not None and found.classes == 2


def test_photos_of_one_class_teach_nothing() -> None:
    with pytest.raises(ValueError, match="two classes"):
        Recogniser(features(LABELS, 1), np.zeros_like(LABELS), CLASSES)


def test_the_same_photos_give_the_same_classifier_and_leave_the_generator_of_numbers_alone() -> (
    None
):
    import torch

    torch.manual_seed(3)
    before = torch.get_rng_state()
    again = Recogniser(features(LABELS, 1), LABELS, CLASSES)
    assert torch.equal(before, torch.get_rng_state())
    assert (again.named(HELD_OUT[0]) == TRAINED.named(HELD_OUT[0])).all()


def test_labels_are_matched_by_name() -> None:
    labels = np.array([0, 1, 2, 1])
    assert numbered(["a", "b", "c"], labels, ["c", "b"]).tolist() == [-1, 1, 0, 1]


def test_the_sentence_names_all_that_is_compared() -> None:
    found = TRAINED.recognition((features(LABELS, 3), LABELS), HELD_OUT)
    assert found is not None
    words = _recognised(found.to_json())
    assert "33% by chance" in words and "means over 3 classes" in words


@PEFT
@pytest.mark.slow
@pytest.mark.export
def test_a_base_with_classes_is_asked_for_them_and_a_classifier_says_whether_it_drew_them(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A classifier of the photos tells held-out ones, and not what a toy draws after some steps."""
    monkeypatch.setattr(recognition, "FEWEST", 1)
    monkeypatch.setattr(periodic_eval, "EVALUATION_IMAGES", 16)
    monkeypatch.setattr(periodic_eval, "FINAL_IMAGES", 24)
    (tmp_path / "photos").mkdir()
    photos = photo_files(tmp_path / "photos")
    small = family("cas-dm").recipes["tiny"]()
    config = replace(small.config, classes=2)
    recipe = replace(small, config=config, images=8, batch=8, warmup=2)
    base, out = tmp_path / "base", tmp_path / "out"
    train(RunSettings("cas-dm", "tiny", recipe), shapes(64), base, False, 24, nothing)
    assert go(base, out, photos) == 0
    found = json.loads((out / "looks.json").read_text())["last"]["recognition"]
    assert found["classes"] == 2 and found["chance"] == 0.5
    assert found["held_out"] > found["chance"] and found["generated"] < found["held_out"]
    assert "recognised: a classifier of your photos names" in capsys.readouterr().out
