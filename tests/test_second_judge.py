"""A second judge over another network: it sees what the first is blind to, takes part in all that
gates do, and changes nothing where nobody asked for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_judge import FIRST, TERMS, Blocks, full_images, noisy
from test_judge import full as full
from test_recheck import each_edit_is_found, leaves, manifest

from edgegen.core.bundle import Bundle
from edgegen.core.files import read_json, to_json
from edgegen.core.spec import Array
from edgegen.errors import ReferenceMismatch, TrustError, UsageError
from edgegen.evidence.certificate import page
from edgegen.evidence.full_side import FullSide, Images
from edgegen.evidence.judge import Judgement, judge
from edgegen.evidence.movement import along_main, apart, moved
from edgegen.evidence.terms import Trial
from edgegen.workflows.export.attempts import Attempts, what_is_judged
from edgegen.workflows.recheck import JudgeSaid, differences, recorded

# of evidence where neither a second judge nor anything else beyond the defaults is asked for
KEYS = {
    "verdict",
    "more",
    "budget",
    "change",
    "distance_full",
    "distance_other",
    "distance_between",
    "psnr_db",
    "psnr_median_db",
    "images",
    "first_seed",
    "last_seed",
    "features",
    "size",
    "reference",
    "reference_sha256",
    "reference_corrected",
    "looks",
    "level",
    "look_level",
    "state",
    "terms",
    "attempt",
    "gates",
    "worst_pairs",
}
GATES = {"psnr", "moved", "apart", "classes", "class_limit_db", "ruined", "psnr_of_all_db"}
ASKED = {"budget", "maximum", "psnr", "ruined", "moved", "apart"}
BOARD: Array = np.asarray(np.indices((8, 8)).sum(0) % 2 * 2 - 1, np.float32)


@dataclass(frozen=True)
class Edges:
    """A feature network that sees what Blocks averages away: steps from pixel to pixel."""

    name: str = "edges"
    sha256: str = "78" * 32
    size: int = 8
    dim: int = 168

    def __call__(self, images: np.ndarray) -> Array:
        x = images.astype(np.float32) / 64
        return np.asarray((x[:, :, 1:] - x[:, :, :-1]).reshape(len(images), -1), np.float32)


def checkered(seeds: Sequence[int]) -> Array:
    """Two levels up and down: the blocks' means stay."""
    return full_images(seeds) + np.float32(0.03) * BOARD


def with_second(full: FullSide, second: Any = None, workers: int = 1) -> FullSide:
    return FullSide(
        full_images, Blocks(), full.reference, FIRST, workers, full.classes, second or Edges()
    )


def said(side: FullSide, other: Images, **limits: float) -> Judgement:
    return judge(side, other, replace(TERMS, **limits), Trial(FIRST, 0.96))  # type: ignore[arg-type]


def test_it_sees_what_the_first_is_blind_to(full: FullSide) -> None:
    limits = {"psnr": 30.0, "moved": 0.01}
    assert said(full, checkered, **limits).state == "within"
    found = said(with_second(full), checkered, **limits)
    assert found.states["moved"] == "within" and found.states["moved (second)"] == "outside"
    assert found.state == "outside"
    assert any(text.startswith("by the second judge edges, features") for text in found.failures())


def test_what_both_pass_passes_and_all_else_is_as_without(full: FullSide) -> None:
    alone = json.loads(to_json(said(full, noisy(0.004)).to_json()))
    found = said(with_second(full), noisy(0.004))
    both = json.loads(to_json(found.to_json()))
    assert found.state == "within" and found.failures() == []
    second = both.pop("second_judge")
    # full precision of a toy may be far from any reference, which is said then
    assert both == alone and set(alone) - {"distance_is_large"} == KEYS
    assert set(alone["gates"]) == GATES and set(alone["terms"]) == ASKED
    assert (second["features"], second["sha256"], second["size"]) == ("edges", "78" * 32, 8)
    assert 0 < second["apart"]["value"] < second["moved"]["value"] < second["moved"]["high"]
    assert second["moved"]["limit"] == TERMS.moved and second["apart"]["limit"] == TERMS.apart


def test_figures_are_those_of_the_parts_for_any_number_of_workers(full: FullSide) -> None:
    from edgegen.core.images import to_uint8

    seeds = range(FIRST, FIRST + 400)
    a, b = (Edges()(to_uint8(make(seeds))) for make in (full_images, noisy(0.004)))
    for workers in (1, 3):
        found = said(with_second(full, workers=workers), noisy(0.004)).gates.second
        assert found is not None
        level = 0.96
        assert found.moved.figure == moved(a, b, level)
        assert found.apart.figure == apart(*along_main(a, b), level)


def test_it_takes_part_in_stopping(full: FullSide) -> None:
    """A limit that it finds broken ends at the first look, one at the edge asks for more pairs."""
    terms = replace(TERMS, maximum=2000, psnr=30.0, apart=1.0)
    first = judge(full, checkered, terms, Trial(FIRST, 0.96))
    assert first.comparison.looks == (500,) and first.state == "within"
    second = judge(with_second(full), checkered, terms, Trial(FIRST, 0.96)).gates.second
    assert second is not None
    edge = replace(terms, moved=second.moved.figure.value)
    found = judge(with_second(full), checkered, edge, Trial(FIRST, 0.96))
    assert found.comparison.looks == (500, 1000, 2000)
    assert found.states["moved (second)"] == "undecided" == found.state


def test_features_of_each_side_are_made_once(full: FullSide) -> None:
    asked = 0

    class Counted(Edges):
        def __call__(self, images: np.ndarray) -> Array:
            nonlocal asked
            asked += len(images)
            return super().__call__(images)

    side = with_second(full, Counted())
    said(side, noisy(0.004))
    assert asked == 2 * 400, "no more than the features' pairs, though the tail went on"
    said(side, noisy(0.003))
    assert asked == 3 * 400, "full precision's are kept"
    assert isinstance(side.from_seed(5).second, Counted)


def test_both_judges_may_not_be_one(full: FullSide) -> None:
    with pytest.raises(UsageError, match=r"E-FEATURES.*the second judge is the first one, blocks"):
        with_second(full, Blocks())


def test_main_directions_are_of_full_precision_alone() -> None:
    rng = np.random.default_rng(0)
    full = rng.normal(size=(40, 100)) * np.r_[9.0, 7.0, np.full(98, 0.01)]
    wide = along_main(full, full + 1e3 * np.eye(100)[5])
    assert wide[0].shape == (40, 10), "a direction for every four images"
    # one that full precision hardly knows is not looked at here, but is by what moves
    assert np.abs(wide[1] - wide[0]).max() < 200
    long = along_main(np.repeat(full, 20, 0), np.repeat(full, 20, 0))
    assert long[0].shape == (800, 100)
    many = rng.normal(size=(1000, 200))
    assert along_main(many, many)[0].shape == (1000, 128)
    for a, n in ((full, 10), (many, 128)):  # wide and long matrices alike
        values = np.linalg.eigvalsh(np.cov(a.T))[::-1][:n]
        found = np.sort(np.linalg.eigvalsh(np.cov(along_main(a, a)[0].T)))[::-1]
        assert found == pytest.approx(values, rel=1e-6)


# --- evidence that names one ---


@pytest.fixture(scope="module")
def evidence(tiny_bundle: Path) -> Any:
    """What a manifest with a second judge says of one runtime."""
    found = read_json(tiny_bundle / "manifest.json")["evidence"]["runtimes"]["onnxruntime"]
    gate = found["gates"]["moved"]
    second = {"features": "edges", "sha256": "78" * 32, "size": 8}
    second |= {"moved": dict(gate), "apart": dict(gate)}
    return {**found, "second_judge": second}


def test_every_edit_of_its_figures_is_found(evidence: Any) -> None:
    places = [place for place in leaves(evidence) if place[0] == "second_judge"]
    assert len(places) == 13
    each_edit_is_found(evidence, places)
    gone = {k: v for k, v in evidence.items() if k != "second_judge"}
    assert differences("r", gone, evidence, True) and differences("r", evidence, gone, False)


def test_what_evidence_says_of_it_is_read(evidence: Any, tiny_bundle: Path) -> None:
    source = Bundle.open(tiny_bundle).manifest.source
    assert recorded(manifest(evidence, source)).second == JudgeSaid("edges", "78" * 32, 8)
    assert recorded(Bundle.open(tiny_bundle)).second is None
    for bad in ("edges", {"features": "edges"}, {**evidence["second_judge"], "size": "8"}):
        with pytest.raises(TrustError, match="no complete evidence"):
            recorded(manifest({**evidence, "second_judge": bad}, source))
    two = manifest(evidence, source)
    plain = {k: v for k, v in evidence.items() if k != "second_judge"}
    two.manifest.evidence["runtimes"]["openvino"] = plain
    two.manifest.runtimes["openvino"] = None
    with pytest.raises(TrustError, match="different second judges"):
        recorded(two)


def test_the_certificate_names_it(evidence: Any, tiny_bundle: Path) -> None:
    about = read_json(tiny_bundle / "manifest.json")
    about["evidence"]["runtimes"] = {"onnxruntime": {**evidence, "worst_pairs": []}}
    html = page(about, {"onnxruntime": np.empty((0, 2, 8, 8, 3), np.uint8)}).decode()
    assert "Moved, second judge" in html and "Apart, second judge" in html
    assert "edges at 8 px, sha256 7878787878787878" in html
    assert "--second-judge edges.safetensors" in html
    evidence = {**evidence, "second_judge": {**evidence["second_judge"], "features": "open-nsfw"}}
    about["evidence"]["runtimes"] = {"onnxruntime": {**evidence, "worst_pairs": []}}
    html = page(about, {"onnxruntime": np.empty((0, 2, 8, 8, 3), np.uint8)}).decode()
    assert "--second-judge open-nsfw --fresh-seeds" in html
    without = (tiny_bundle / "evidence" / "certificate.html").read_text("utf-8")
    assert ", second judge" not in without and "--second-judge" not in without


def test_the_table_has_a_line_of_it(full: FullSide, capsys: pytest.CaptureFixture[str]) -> None:
    from edgegen.cli.proof_table import show_second

    found = said(with_second(full), noisy(0.004))
    show_second([SimpleNamespace(name="onnxruntime", judgement=found)])  # type: ignore[list-item]
    printed = capsys.readouterr().out
    assert "onnxruntime, second judge edges at 8 px: moved 0." in printed
    show_second([SimpleNamespace(name="r", judgement=said(full, noisy(0.004)))])  # type: ignore[list-item]
    assert capsys.readouterr().out == ""


def test_another_judge_is_another_attempt(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path))
    bundle, about = Bundle.open(tiny_bundle), {"weights_sha256": "ab" * 32}
    assert Attempts(about, tmp_path / "x").trial(bundle, "onnxruntime", TERMS).number == 0
    for _ in range(2):
        more = Attempts(about, tmp_path / "x", [Edges()])
        assert more.trial(bundle, "onnxruntime", TERMS).number == 1
    assert Attempts(about, tmp_path / "x").trial(bundle, "onnxruntime", TERMS).number == 0
    assert what_is_judged(bundle, "onnxruntime", TERMS) != what_is_judged(
        bundle, "onnxruntime", TERMS, [Edges()]
    )


# --- who is asked for ---


def test_verify_asks_for_the_file_and_refuses_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgegen.workflows import second_judges
    from edgegen.workflows.second_judges import second_judge_again

    monkeypatch.setattr(second_judges, "network_in", lambda path: Edges())
    monkeypatch.setattr(second_judges, "LOADERS", {"open-nsfw": Blocks})
    file = tmp_path / "edges.safetensors"
    file.touch()
    edges = JudgeSaid("edges", "78" * 32, 8)
    assert second_judge_again(None, None) is None
    found: Any = second_judge_again(edges, file)
    assert found == Edges()
    with pytest.raises(UsageError, match=r"a second judge, edges@787878787878 at 8 px - give its"):
        second_judge_again(edges, None)
    for other_one in (replace(edges, sha256="00" * 32), replace(edges, size=9)):
        with pytest.raises(ReferenceMismatch, match="is a different one - give the weight file"):
            second_judge_again(other_one, file)
    packaged = JudgeSaid("open-nsfw", "34" * 32, 8)
    with pytest.raises(ReferenceMismatch, match="open-nsfw is a different one"):
        second_judge_again(packaged, None)
    with pytest.raises(
        UsageError, match=r"'open-nsfv' is neither a second judge nor a file - .*nsfw"
    ):
        second_judge_again(edges, "open-nsfv")


@pytest.mark.slow
def test_whoever_verifies_asks_for_one_that_the_evidence_has_not(
    tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import tiny
    from safetensors.torch import save_file
    from test_feature_files import clip_state

    from edgegen.cli.main import run

    save_file(clip_state(64, 1), file := tmp_path / "clip.safetensors")
    asked = ("--threads", "1", "--runtime", "onnxruntime", "--second-judge", str(file))
    assert run(["verify", str(tiny_bundle), *tiny.TERMS, *asked]) == 0
    assert "onnxruntime, second judge clip at 56 px: moved 0." in capfd.readouterr().out
