"""No reference, and few pairs: what can be said is said, what cannot is refused before the work,
and nothing passes because there was nothing to look at.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
from test_judge import CLASSES, FIRST, TERMS, Blocks, black, damaged, full_images, noisy
from test_judge import full as full
from test_recheck import GOLDEN, edited, leaves, manifest, other

from edgegen.core.bundle import Bundle
from edgegen.core.files import read_json, to_json
from edgegen.errors import TrustError, UsageError
from edgegen.evidence import certificate
from edgegen.evidence.classes import FEWEST, groups
from edgegen.evidence.full_side import FullSide, Images
from edgegen.evidence.judge import DISTANCE_IS_LARGE, Judgement, counted_reference, judge
from edgegen.evidence.looks import FEW_PAIRS
from edgegen.evidence.movement import along_main, apart, moved
from edgegen.evidence.reference import build
from edgegen.evidence.terms import FEWEST_PAIRS, PIXEL_PAIRS, Terms, Trial, trial
from edgegen.workflows.export.attempts import weights_of, what_is_judged
from edgegen.workflows.export.model_card import card
from edgegen.workflows.export.run import ExportResult, ExportSettings, export_bundle
from edgegen.workflows.recheck import differences, recorded

WITHOUT = replace(TERMS, is_distance_counted=False)


def said(full: FullSide, other: Images, terms: Terms = WITHOUT) -> Judgement:
    stored = counted_reference(full.reference, terms)
    side = FullSide(full_images, Blocks(), stored, FIRST, classes=full.classes)
    return judge(side, other, terms, Trial(FIRST, 0.96))


def test_the_other_gates_decide_where_no_distance_is_counted(full: FullSide) -> None:
    found = said(full, noisy(0.004))
    assert found.state == "within" and found.failures() == []
    assert set(found.states) == {"PSNR", "moved", "apart", "classes", "ruined"}
    data = json.loads(to_json(found.to_json()))
    nothing = {"value": None, "low": None, "high": None}
    assert (data["verdict"], data["more"], data["state"]) == ("not counted", 0, "within")
    assert data["change"] == data["distance_full"] == data["distance_other"] == nothing
    assert data["reference"] is data["reference_sha256"] is data["reference_corrected"] is None
    assert data["features_sha256"] == Blocks().sha256
    assert data["terms"]["is_distance_counted"] is False
    assert [one["change"] for one in data["gates"]["classes"]] == [None] * CLASSES
    # with one, not a word of it
    default = said(full, noisy(0.004), TERMS).to_json()
    assert "features_sha256" not in default and "is_distance_counted" not in default["terms"]


@pytest.mark.parametrize(
    "other, gate",
    [
        (damaged(black, 25), "ruined"),
        (damaged(noisy(0.08), CLASSES, 2), "classes"),
        (noisy(0.5), "moved"),
        (lambda seeds: full_images(seeds) + np.float32(0.15), "apart"),
        (lambda seeds: full_images(seeds) + np.float32(0.04), "PSNR"),
    ],
)
@pytest.mark.parametrize("pairs", [64, 400])
def test_what_a_gate_guards_fails_there(
    full: FullSide, other: Images, gate: str, pairs: int
) -> None:
    found = said(full, other, replace(WITHOUT, maximum=pairs, ruined=0.013))
    assert found.state == "outside", found.states
    assert found.states[gate] in (("outside",) if pairs == 400 else ("outside", "undecided"))
    assert not any("nan" in failure for failure in found.failures())


def test_figures_are_over_features_that_no_reference_has_projected(full: FullSide) -> None:
    from edgegen.core.images import to_uint8

    found = said(full, noisy(0.05))
    seeds = range(FIRST, FIRST + found.comparison.images)
    a, b = (Blocks()(to_uint8(make(seeds))) for make in (full_images, noisy(0.05)))
    assert found.gates.moved.figure == moved(a, b, found.comparison.look_level)
    assert found.gates.apart.figure == apart(*along_main(a, b), found.comparison.look_level)


def test_a_reference_of_other_photos_cannot_hide_what_moves(full: FullSide) -> None:
    """Statistics of pictures that differ in one corner alone know no other direction."""
    corner = np.zeros((500, 8, 8, 3), np.uint8)
    corner[:, :4, :4] = np.random.default_rng(0).integers(255, size=(500, 1, 1, 3))
    foreign = build(Blocks()(corner), Blocks(), "other photos", k=2)
    own = FullSide(full_images, Blocks(), foreign, FIRST)
    spoilt = damaged(black, 1)
    assert said(own, spoilt, replace(WITHOUT, psnr=0, ruined=0.9)).states["moved"] == "outside"


def test_too_few_pairs_for_the_directions_of_a_reference_count_no_distance(full: FullSide) -> None:
    assert full.reference is not None and full.reference.k == 6
    assert counted_reference(full.reference, replace(TERMS, maximum=18)) is full.reference
    assert counted_reference(full.reference, replace(TERMS, maximum=17)) is None
    assert counted_reference(full.reference, WITHOUT) is counted_reference(None, TERMS) is None


@pytest.mark.parametrize("images", [64, 100, 250, 299])
def test_pairs_that_can_show_nothing_are_refused_with_what_can(images: int) -> None:
    with pytest.raises(UsageError, match="without a single one they show") as refused:
        Terms(0.02, images, 35.0).check_enough()
    assert refused.value.code == "E-LOOKS" and refused.value.hint is not None
    more, share = refused.value.hint.removeprefix("say --max-images ").split(", or --max-ruined ")
    Terms(0.02, int(more), 35.0).check_enough()
    Terms(0.02, images, 35.0, float(share.rstrip("%")) / 100).check_enough()
    for near in (
        Terms(0.02, int(more) - 1, 35.0),
        Terms(0.02, images, 35.0, float(share.rstrip("%")) / 100 - 0.0001),
    ):
        with pytest.raises(UsageError):
            near.check_enough()


def test_the_refusal_comes_before_the_generator_is_even_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="E-LOOKS"):
        export_bundle("no-such-generator", tmp_path / "out", ExportSettings(max_images=64))
    with pytest.raises(UsageError):
        ExportSettings(max_images=FEWEST_PAIRS - 1)


def test_64_pairs_without_a_ruined_one_show_what_the_documents_say() -> None:
    looks = Terms(0.02, 64).tail_looks(0.96)
    assert (1 - looks.least) ** (PIXEL_PAIRS * 64) == pytest.approx(0.4 * 0.04)
    assert looks.passing(looks.least * 1.0001) < 0.016


@pytest.mark.parametrize("pairs", [64, 200, 500, 4000])
@pytest.mark.parametrize("labels", [2, 10, 100, 1000])
def test_classes_of_few_pairs_are_grouped_so_that_each_group_has_enough(
    pairs: int, labels: int
) -> None:
    made = groups(list(map(str, range(labels))), pairs)
    of = np.arange(pairs) % labels
    assert all(group.of(of).sum() >= FEWEST for group in made) or len(made) == 1
    assert not made or (made[0].first, made[-1].last) == (0, labels - 1)
    if pairs == 4000 and labels < 1000:
        assert made == groups(list(map(str, range(labels)))), "as ever"


def test_a_distance_that_is_large_in_itself_is_said_in_words(full: FullSide) -> None:
    far = said(full, noisy(0.004), replace(TERMS, budget=5.0))
    assert far.is_distance_large and far.to_json()["distance_is_large"] is True
    near = said(full, noisy(0.004), replace(TERMS, budget=0.0001))
    assert not near.is_distance_large and "distance_is_large" not in near.to_json()
    assert not said(full, noisy(0.004)).is_distance_large


# --- evidence that counts none ---


@pytest.fixture(scope="module")
def evidence(full: FullSide) -> Any:
    """What a manifest without a distance says of one runtime."""
    about = read_json(GOLDEN / "manifest.json")
    stored, first = (
        about["evidence"]["runtimes"]["onnxruntime"],
        trial(weights_of(about["source"]), 0),
    )
    same = {"first_seed": first.first_seed, "attempt": 0, "level": first.level}
    return {**stored, **json.loads(to_json(said(full, noisy(0.004)).to_json())), **same}


def test_every_edit_of_its_figures_is_found(evidence: Any) -> None:
    for place in leaves(evidence):
        value = evidence
        for name in place:
            value = value[name]
        found = differences("r", edited(evidence, place, other(value, 1.01)), evidence, True)
        assert [one.figure for one in found] == [".".join(map(str, place))], place
    for gone in ("features_sha256", "verdict", "change"):
        without = {k: v for k, v in evidence.items() if k != gone}
        assert differences("r", without, evidence, True), gone


def test_its_terms_are_read_and_a_change_is_missed_where_it_should_be(evidence: Any) -> None:
    source = Bundle.open(GOLDEN).manifest.source
    assert recorded(manifest(evidence, source)).terms.is_distance_counted is False
    assert recorded(Bundle.open(GOLDEN)).terms.is_distance_counted is True
    with pytest.raises(TrustError, match="no complete evidence"):
        recorded(manifest({**evidence, "verdict": "within"}, source))


def shown(about: Mapping[str, Any]) -> str:
    return certificate.page(about, {"onnxruntime": np.empty((0, 2, 8, 8, 3), np.uint8)}).decode()


def test_certificate_and_model_card_say_that_it_is_not_counted(evidence: Any) -> None:
    about = read_json(GOLDEN / "manifest.json")
    about["evidence"]["runtimes"] = {"onnxruntime": {**evidence, "worst_pairs": []}}
    html, text = shown(about), card(about, 16, 16).decode()
    assert "The distance to a reference is not counted;" in html and "--no-reference" in html
    assert "FD is not counted. Features: blocks at 8 px." in text and "| not counted, 400" in text
    assert FEW_PAIRS in html
    assert not re.findall(r".{40}\b(?:nan|None)\b(?! can make)", html + text)


def test_certificate_and_table_say_that_a_distance_is_large(
    full: FullSide, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgegen.cli.proof_table import show_large

    about = read_json(GOLDEN / "manifest.json")
    stored = about["evidence"]["runtimes"]["onnxruntime"]
    for is_large in (False, True):
        found = said(full, noisy(0.004), replace(TERMS, budget=5.0 if is_large else 0.0001))
        show_large([SimpleNamespace(name="r", judgement=found)])  # type: ignore[list-item]
        assert (DISTANCE_IS_LARGE in capsys.readouterr().out) is is_large
        one = {**stored, **json.loads(to_json(found.to_json())), "worst_pairs": []}
        about["evidence"]["runtimes"] = {"onnxruntime": one}
        assert (DISTANCE_IS_LARGE[1:] in shown(about)) is is_large


def test_a_result_without_a_distance_has_a_state_and_no_verdict(full: FullSide) -> None:
    """Of the runtime that is farthest from passing."""

    def result(*judgements: Judgement) -> ExportResult:
        judged = [SimpleNamespace(judgement=j, comparison=j.comparison) for j in judgements]
        return ExportResult(Path("out"), SimpleNamespace(judged=judged))  # type: ignore[arg-type]

    counted, bad = said(full, noisy(0.004), TERMS), said(full, noisy(0.4), TERMS)
    without = said(full, noisy(0.004), WITHOUT)
    assert (result(without).state, result(without).verdict) == ("within", None)
    assert (result(counted).state, result(counted).verdict) == (
        counted.state,
        counted.comparison.verdict,
    )
    assert result(without, bad).state == "outside"
    assert result(counted, bad).verdict == bad.comparison.verdict


def test_another_network_without_a_reference_is_another_attempt() -> None:
    bundle, asked = Bundle.open(GOLDEN), ("onnxruntime", WITHOUT)
    one, two = Blocks(), Blocks(sha256="56" * 32)
    assert len({what_is_judged(bundle, *asked, judges) for judges in ([], [one], [two])}) == 3


@pytest.mark.slow
def test_64_pairs_without_a_reference_from_end_to_end(
    tiny_run: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The folder has a reference; without one the file is not even there."""
    import shutil

    # a first attempt: from so few pairs a later one, at its stricter level, shows nothing
    monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path / "cache"))

    from edgegen.cli.main import run

    source = shutil.copytree(tiny_run, tmp_path / "run")
    (source / "reference.safetensors").unlink()
    (plan := tmp_path / "plan.json").write_bytes(tiny.measured_plan().to_bytes())
    asked = ("--plan", str(plan), "--max-images", "64")
    out = tmp_path / "out"
    assert tiny.export(source, out, *asked, runtimes="onnxruntime") == 2
    assert "E-FID-REF" in capfd.readouterr().err
    assert tiny.export(source, out, *asked, "--no-reference", runtimes="onnxruntime") == 0
    assert "not counted" in capfd.readouterr().out
    bundle = Bundle.open(out)
    assert "evidence/reference.safetensors" not in bundle.manifest.files
    found = bundle.manifest.evidence["runtimes"]["onnxruntime"]
    assert (found["verdict"], found["images"], found["state"]) == ("not counted", 64, "within")
    assert math.isfinite(found["gates"]["moved"]["high"])
    terms = (*tiny.TERMS, "--threads", "1")
    assert run(["verify", str(out), *terms, "--no-reference"]) == 0
    assert run(["verify", str(out), *terms]) == 3
    assert "--no-reference" in capfd.readouterr().err
