"""What a manifest says of the images is held to what this machine finds: no figure can be edited,
and no limit comes from the file under test.
"""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from edgegen.cli.main import run
from edgegen.cli.options import share_of
from edgegen.core.bundle import Bundle, write_manifest
from edgegen.core.files import read_json
from edgegen.errors import TrustError
from edgegen.evidence import certificate
from edgegen.evidence.terms import Terms, trial
from edgegen.workflows.export.attempts import Attempts, weights_of
from edgegen.workflows.export.build import described
from edgegen.workflows.export.run import ExportSettings
from edgegen.workflows.recheck import NOT_QUALITY, differences, recorded, slower_or_faster
from edgegen.workflows.verify import VerifySettings

GOLDEN = Path(__file__).parent / "golden" / "bundle-1-toy"


@pytest.fixture(scope="module")
def evidence(tiny_bundle: Path) -> Any:
    """What the manifest says of one runtime."""
    return read_json(tiny_bundle / "manifest.json")["evidence"]["runtimes"]["onnxruntime"]


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for name, part in inner:
            if name not in NOT_QUALITY:
                yield from leaves(part, (*place, name))
    else:
        yield place


def edited(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    out = copy.deepcopy(value)
    inner = out
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = new
    return out


def other(value: Any, by: float) -> Any:
    """A figure, a word or an answer that says something else."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return type(value)(value * by + 1)
    return "0" if value is None else f"{value}x"


def test_what_is_recorded_is_found_again(evidence: Any) -> None:
    again = json.loads(json.dumps(evidence))
    assert differences("r", evidence, again, True) == []
    assert differences("r", evidence, again, False) == []


def each_edit_is_found(evidence: Any, places: list[tuple[Any, ...]]) -> None:
    for place in places:
        value = evidence
        for name in place:
            value = value[name]
        found = differences("r", edited(evidence, place, other(value, 1.01)), evidence, True)
        assert [one.figure for one in found] == [".".join(map(str, place))], place


def test_every_edit_of_a_single_figure_is_found(evidence: Any) -> None:
    places = list(leaves(evidence))
    assert len(places) > 60
    each_edit_is_found(evidence, places)


@pytest.mark.parametrize("gone", ["min_psnr_db", "gates", "psnr_db", "worst_pairs"])
def test_a_figure_that_is_missing_is_found(evidence: Any, gone: str) -> None:
    less = {name: value for name, value in evidence.items() if name != gone}
    assert differences("r", less, evidence, True) != []


@pytest.mark.parametrize(
    "place, new",
    [
        (("psnr_db",), 71.3),
        (("distance_between",), 1000.0),
        (("change", "value"), 0.5),
        (("level",), 0.9999),
        (("budget",), 0.5),
        (("verdict",), "outside"),
        (("gates", "ruined", "limit"), 0.5),
    ],
)
def test_another_machine_finds_bold_edits_too(
    evidence: Any, place: tuple[str, ...], new: Any
) -> None:
    assert differences("r", edited(evidence, place, new), evidence, False) != []


def test_another_machine_rounds_otherwise(evidence: Any) -> None:
    change = evidence["change"]
    near = change["value"] + (change["high"] - change["low"]) / 3
    assert differences("r", edited(evidence, ("change", "value"), near), evidence, False) == []
    assert differences("r", edited(evidence, ("change", "value"), near), evidence, True) != []


def manifest(evidence: Any, source: dict[str, str]) -> Any:
    return SimpleNamespace(
        root=Path("b"),
        manifest=SimpleNamespace(
            evidence={"runtimes": {"onnxruntime": evidence}},
            runtimes={"onnxruntime": None},
            source=source,
        ),
    )


def test_seeds_and_level_follow_from_the_weights_and_the_attempt(
    evidence: Any, tiny_bundle: Path
) -> None:
    source = Bundle.open(tiny_bundle).manifest.source
    said = recorded(manifest(evidence, source))
    assert said.is_whole and said.terms == Terms(1.0, 500, 0.0, 0.02, 0.5, 0.2)
    assert said.trials["onnxruntime"] == trial(weights_of(source), evidence["attempt"])
    for name, new in (("level", 0.5), ("level", 0.951), ("first_seed", 5), ("attempt", 7)):
        with pytest.raises(TrustError, match="no complete evidence"):
            recorded(manifest({**evidence, name: new}, source))


@pytest.mark.parametrize("name", ["terms", "budget", "level", "first_seed", "change"])
def test_a_missing_limit_is_refused(evidence: Any, tiny_bundle: Path, name: str) -> None:
    source = Bundle.open(tiny_bundle).manifest.source
    less = {k: v for k, v in evidence.items() if k != name}
    if name == "terms":
        less["terms"] = {k: v for k, v in evidence["terms"].items() if k != "ruined"}
    if name != "budget":  # terms have it
        with pytest.raises(TrustError, match="no complete evidence"):
            recorded(manifest(less, source))
    else:
        assert differences("r", less, evidence, True) != []


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--files-only --bench", "--bench"),
        ("--images-only --fresh-seeds", "--fresh-seeds"),
        ("--images-only --min-psnr 40", "--min-psnr"),
        ("--files-only --max-moved 1%", "--max-moved"),
        ("--files-only --second-judge open-nsfw", "--second-judge"),
        ("--images-only --reference photos", "--reference"),
    ],
)
def test_what_would_not_be_looked_at_is_refused(
    flags: str, named: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", str(GOLDEN), *flags.split()]) == 2
    assert f"{named} is about the evidence" in capfd.readouterr().err


@pytest.mark.parametrize("settings", [ExportSettings, VerifySettings])
def test_every_limit_is_the_one_that_was_asked(settings: Any) -> None:
    """None is left at its default, none takes another's place."""
    limits = {"max_ruined": 0.01, "max_moved": 0.02, "max_apart": 0.03}
    asked = settings(fid_budget=0.04, min_psnr_db=5.0, **limits)
    want = Terms(0.04, 4000, 5.0, ruined=0.01, moved=0.02, apart=0.03)
    assert (asked.terms if settings is ExportSettings else asked.terms(Terms(1, 4000))) == want


@pytest.mark.parametrize(
    ("said", "here", "differs"),
    [
        (2.0, 2.4, False),
        (2.0, 1.6, False),
        (2.0, 1.4, True),
        (2.0, 2.6, True),
        (None, None, False),
        (2.0, None, True),
        (None, 2.0, True),
        ("fast", 2.0, True),
        (-1.0, -1.0, True),
        (math.nan, math.nan, True),
    ],
)
def test_a_speed_is_held_to_a_quarter(said: Any, here: Any, differs: bool) -> None:
    found = slower_or_faster("onnxruntime", {"speed": said}, here)
    assert [str(one.figure) for one in found] == (["speed"] if differs else [])


def test_evidence_of_an_older_edgegen_is_read_and_said_to_be(evidence: Any) -> None:
    said = recorded(Bundle.open(GOLDEN))
    assert not said.is_whole and said.terms.budget > 0
    old = dict(said.evidence["onnxruntime"])
    assert differences("r", old, {**evidence, **old}, False) == []


@pytest.mark.slow
def test_verify_exits_with_3_where_a_figure_was_edited(
    tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    root = tmp_path / "b"
    shutil.copytree(tiny_bundle, root)
    description = described(Bundle.open(root))
    psnr = description["evidence"]["runtimes"]["onnxruntime"]["psnr_db"]
    description["evidence"]["runtimes"]["onnxruntime"]["psnr_db"] = 71.3
    write_manifest(root, description)
    quickly = ("--threads", "1", "--runtime", "onnxruntime")
    assert run(["verify", str(root), *quickly, *tiny.TERMS]) == 3
    said = capfd.readouterr()
    assert "NOT FOUND HERE: onnxruntime: psnr_db is 71.3 in the manifest" in said.out
    assert "figures in the manifest differ from those measured on this machine" in said.err
    description["evidence"]["runtimes"]["onnxruntime"]["speed"] = 71.0
    description["evidence"]["runtimes"]["onnxruntime"]["psnr_db"] = psnr
    write_manifest(root, description)
    assert run(["verify", str(root), *quickly, *tiny.TERMS]) == 0
    assert (
        "were not compared with those in the manifest; to compare them, add --bench"
        in capfd.readouterr().out
    )
    assert run(["verify", str(root), *quickly, *tiny.TERMS, "--fresh-seeds", "--bench"]) == 3
    assert "NOT FOUND HERE: onnxruntime: speed is 71 in the manifest" in capfd.readouterr().out
    # whoever verifies says what is good: random weights are not, by default
    assert run(["verify", str(tiny_bundle), *quickly, "--fid-budget", "0.01%"]) == 3
    assert "the evidence does not hold" in capfd.readouterr().err
    photos = str(Path(__file__).parent / "data" / "photos")
    fresh = ("--fresh-seeds", "--reference", photos)
    assert run(["verify", str(tiny_bundle), *quickly, *tiny.TERMS, *fresh]) == 0
    assert "to the verifier's photos" in capfd.readouterr().out


def test_another_option_is_the_next_attempt_and_the_same_export_the_same(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path))
    bundle = Bundle.open(tiny_bundle)
    about = {"weights_sha256": "ab" * 32, "name": "x"}
    terms = Terms(0.02, 500)

    def ledger(out: Path = tmp_path / "nothing") -> Attempts:
        return Attempts(about, out)

    first = ledger().trial(bundle, "onnxruntime", terms)
    assert first.number == ledger().trial(bundle, "onnxruntime", terms).number == 0
    assert ledger().trial(bundle, "onnxruntime", replace(terms, budget=0.03)).number == 1
    third = ledger()
    assert third.trial(bundle, "onnxruntime", replace(terms, psnr=30.0)).number == 2
    assert third.trial(bundle, "openvino", terms).number == 0, "each runtime has its own error"
    assert ledger().trial(bundle, "onnxruntime", terms) == first
    assert third.trial(bundle, "onnxruntime", terms).level > 0.95

    # the bundle remembers where the cache was deleted
    (tmp_path / "out").mkdir()
    kept = {"source": about, "evidence": {"attempts": third.to_json()}}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(kept))
    shutil.rmtree(tmp_path / "attempts")
    again = ledger(tmp_path / "out")
    assert again.trial(bundle, "onnxruntime", replace(terms, psnr=31.0)).number == 3
    # and gives it back to the cache
    assert ledger().trial(bundle, "onnxruntime", replace(terms, psnr=32.0)).number == 4
    assert (
        Attempts({**about, "weights_sha256": "cd" * 32}, tmp_path / "out")
        .trial(bundle, "onnxruntime", terms)
        .number
        == 0
    ), "other weights have their own"


def test_the_certificate_says_limits_as_they_were_asked(evidence: Any) -> None:
    """Rounded ones would be others, which verify would judge by."""
    terms = {**evidence["terms"], "ruined": 0.00035, "moved": 0.0123, "apart": 0.00512}
    about = {"evidence": {"runtimes": {"r": {**evidence, "terms": terms}}}}
    page = "".join(certificate._again(about))
    assert "--max-ruined 0.035% --max-moved 1.23% --max-apart 0.512%" in page


def test_the_certificate_is_one_page_that_fetches_nothing(tiny_bundle: Path) -> None:
    page = (tiny_bundle / "evidence" / "certificate.html").read_text("utf-8")
    evidence = read_json(tiny_bundle / "manifest.json")["evidence"]
    assert "http:" not in page and "https:" not in page and "<script" not in page
    assert page.count("data:image/png;base64,") == sum(
        len(found["worst_pairs"]) for found in evidence["runtimes"].values()
    )
    for name, found in evidence["runtimes"].items():
        assert name in page and f"seed {found['worst_pairs'][0]['seed']}" in page
        assert f"{found['change']['value']:+.2%}" in page
    said = found["terms"]
    limits = re.search(
        r"--fid-budget (\S+) .*--max-ruined (\S+) --max-moved (\S+) --max-apart (\S+)", page
    )
    assert limits is not None
    names = ("budget", "ruined", "moved", "apart")
    assert [share_of(text, "", "") for text in limits.groups()] == [said[n] for n in names]
    assert "--fresh-seeds" in page and "The smallest change this test could have seen" in page
    assert (tiny_bundle / "evidence" / "worst-pairs.png").is_file()
