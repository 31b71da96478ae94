"""The zoo's cards: everything a reader needs to judge a figure is on them, missed goals too;
weights stay small.
"""

from __future__ import annotations

import math

import pytest
from PIL import Image

from edgegen.cli.main import run
from edgegen.families import FAMILIES
from edgegen.training import checkpoint
from edgegen.zoo import ROOT, Entry, entries

ENTRIES = {entry.name: entry for entry in entries()}
FIELDS = {
    "config",
    "data",
    "date",
    "distance",
    "distance_all_features",
    "embeds_training_data",
    "family",
    "goals",
    "hardware",
    "hours",
    "images_seen",
    "kernel_distance",
    "licence",
    "note",
    "novelty",
    "parameters",
    "precision_recall",
    "recipe",
    "seed",
    "torch",
}


def test_every_family_has_one() -> None:
    assert {entry.card["family"] for entry in ENTRIES.values()} == set(FAMILIES)


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_a_card_names_what_its_figures_are_of(entry: Entry) -> None:
    card = entry.card
    assert card.keys() == FIELDS and card["hours"] > 0 and card["images_seen"] > 0
    distance = card["distance"]
    assert 0 < distance["low"] < distance["value"] < distance["high"]
    for words in ("efficientnet-lite0 at 128 px", " samples against ", "95 % interval"):
        assert words in distance["what"]
    assert (
        card["novelty"]["pixels"]["ratio"] > 0 and 0 <= card["novelty"]["pixels"]["copies"] < 0.05
    )
    assert card["embeds_training_data"] == "none"


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_a_card_says_which_goals_were_met(entry: Entry) -> None:
    for goal in entry.card["goals"]:
        assert goal.keys() == {"what", "at_most", "found", "met"} and math.isfinite(goal["found"])
        assert goal["met"] == (goal["found"] <= goal["at_most"])
    assert entry.card["goals"]


def test_11_models_prints_novelty_beside_every_distance(capfd: pytest.CaptureFixture[str]) -> None:
    """In its own column, with the share of copies (docs/methods/dkgm.md, D.3 test 11); and what
    each distance is over, and the licence.
    """
    assert run(["models"]) == 0
    shown = capfd.readouterr().out
    header, *lines = shown.splitlines()
    for entry in ENTRIES.values():
        row = next(line for line in lines if line.startswith(entry.name))
        distance, new = entry.card["distance"], entry.card["novelty"]["pixels"]
        assert row[header.index("distance (95 %)") :].startswith(
            "{value:.1f} ({low:.1f} to {high:.1f})".format(**distance)
        )
        assert row[header.index("novelty") :].startswith(
            f"{new['ratio']:.2f} ({new['copies']:.1%} copies)"
        )
        assert row.rstrip().endswith(str(entry.grid))
        assert f"{entry.name}: {distance['what']}; {entry.card['licence']}" in shown


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_weights_and_grid(entry: Entry) -> None:
    assert entry.weights.stat().st_size <= 6_000_000
    with Image.open(entry.grid) as grid:
        assert grid.size == (676, 540)  # ten classes a row, eight rows, twice their size


def test_a_training_that_is_not_finished_is_no_entry_and_can_be_continued() -> None:
    """Its folder is a run that `--init` takes; what it stands for is not offered to anybody."""
    for folder in ROOT.glob("*-objects"):
        assert folder.name not in ENTRIES and (folder / "PROVENANCE.md").is_file()
        tensors, _ = checkpoint.weights_of(folder)
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
