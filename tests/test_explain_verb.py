"""edgegen explain: what it writes, what it says, and the sentences for what it cannot do."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import finished_run

from edgegen.cli.main import run
from edgegen.core.progress import Advance
from edgegen.errors import EdgegenError
from edgegen.explain.page import matrix, number, table
from edgegen.explain.primitives import KINDS, Edit
from edgegen.explain.regions import name_of
from edgegen.workflows.explain import (
    DEMANDS,
    ExplainSettings,
    edit_image,
    explain_generator,
    parse_edit,
)
from edgegen.workflows.generators import LoadedGenerator, load_generator

pytestmark = pytest.mark.slow

CUT = ExplainSettings(
    seed=7, layer="theta.trunk.up.1", regions="2x2", baseline=8, show=3, threads=1
)


class CountingListener:
    """Remembers how much of each piece of work was said to be done."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()

    def note(self, text: str) -> None:
        raise AssertionError(text)

    @contextmanager
    def progress(self, label: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
        self.done[label] += 0
        yield lambda more: self.done.update({label: more})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("explain") / "run")


@pytest.fixture(scope="module")
def source(folder: Path) -> LoadedGenerator:
    return load_generator(str(folder))


@pytest.fixture(scope="module")
def report(source: LoadedGenerator, folder: Path) -> Path:
    return explain_generator(source, folder.parent / "report", replace(CUT, others=1)).out


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_a_report_has_its_pictures_and_one_page_without_external_files(report: Path) -> None:
    page = (report / "index.html").read_text()
    assert not re.search(r"(src|href)=[\"'](?!data:image/png;base64,)|https?:|<script|url\(", page)
    shown = document(report)["shown"]
    assert 1 <= len(shown) <= 3
    names = {
        "image.png",
        "baseline.png",
        "regions.png",
        "strength.png",
        "index.html",
        "report.json",
    }
    assert {p.name for p in report.iterdir()} == names | {
        f"primitive-{k + 1:02}.png" for k in range(len(shown))
    }
    assert page.count("<img ") == 4 + len(shown)
    with Image.open(report / "image.png") as image:
        assert image.size == (192, 192)


def test_the_report_says_what_is_a_tautology_and_gives_chance_beside_each_number(
    report: Path,
) -> None:
    page, found = (report / "index.html").read_text(), document(report)
    assert (
        "that is algebra, 2^n - 1 components" in page
        and "Gated demands add up by construction" in page
    )
    assert found["Additivity (error as a share)"]["all components, all demands"] < 1e-9
    psnr = found["PSNR on demanded regions (dB)"]
    assert psnr["all components"] > psnr["none: the baseline (chance)"]
    transfer = found["Transfer: strongest sets found again in seed 8"]
    assert set(transfer) == {"20/20", "20/20 (chance)", "20/100", "20/100 (chance)"}
    for one in found["shown"]:
        assert {"inside", "area", "inside, random vectors"} <= set(one) and 0 <= one["inside"] <= 1


def test_components_are_sorted_and_their_regions_exist(report: Path) -> None:
    components = document(report)["components"]
    strengths = [one["strength"] for one in components]
    assert strengths == sorted(strengths, reverse=True) and len(components) <= 15
    assert all(set(one["regions"].split(",")) <= set("1234") for one in components)


def test_the_verb_writes_the_same_report(
    folder: Path, report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again"
    where = ["--seed", "7", "--layer", CUT.layer, "--regions", "2x2", "--baseline", "8"]
    more = ["--others", "1", "--show", "3", "--threads", "1", "--json", "-o", str(again)]
    assert run(["explain", str(folder), *where, *more]) == 0
    for name in ("image.png", "strength.png", "primitive-01.png"):
        assert (again / name).read_bytes() == (report / name).read_bytes()
    assert (again / "report.json").read_bytes() == (report / "report.json").read_bytes()
    said = json.loads(capsys.readouterr().out)
    assert said["verb"] == "explain" and said["out"] == str(again)
    assert said["about"] == document(again)["about"] and said["about"]["source"] == "run"


def test_a_report_is_not_replaced_unasked(source: LoadedGenerator, report: Path) -> None:
    with pytest.raises(EdgegenError, match="E-OUT"):
        explain_generator(source, report, CUT)


def test_optimised_demands_with_repeat_say_how_stable_they_are(
    source: LoadedGenerator, tmp_path: Path
) -> None:
    cut = replace(CUT, seed=0, layer="phi.trunk.up.1", step=4, demands="optimised", repeat=True)
    listener = CountingListener()
    found = explain_generator(source, tmp_path / "out", cut, listener).report()
    assert listener.done == {"baseline": 0, "solving demands": 60}  # twice 15 and again
    assert found["found"]["psnr on the regions"]["median"] > 30 and found["found"]["solved"] == 16
    assert "held out" in found["Additivity (error as a share)"]
    assert found["Stability: the same seed from another start"]["20/20"] >= 0.9
    assert all(one["floor"] > 0 for one in found["components"])


def panels(picture: Path) -> list[np.ndarray]:
    """Before, after and change of an edited picture, with the gaps between."""
    return np.split(np.asarray(Image.open(picture))[:, :588], [192, 198, 390, 396], axis=1)


def test_an_edit_takes_a_primitive_out(
    source: LoadedGenerator, report: Path, tmp_path: Path
) -> None:
    """Strength 1 changes nothing, 0 does, and only the picture is written."""
    strongest = document(report)["components"][0]["regions"]
    same, gone = (
        edit_image(source, tmp_path / name, replace(CUT, edits=(f"S={strongest}:{strength}",)))
        for strength, name in (("1", "same.png"), ("0.0", "gone.png"))
    )
    assert np.array_equal(panels(same)[0], panels(same)[2])
    assert not np.array_equal(panels(gone)[0], panels(gone)[2])
    assert set(tmp_path.iterdir()) == {same, gone}


def test_a_primitive_is_taken_from_another_seed(
    source: LoadedGenerator, folder: Path, report: Path, tmp_path: Path
) -> None:
    """A seed's own changes nothing, another's does; a set that one of them lacks is refused with
    those that both have.
    """
    components = {one["regions"] for one in document(report)["components"]}
    absent = next(name for s in range(1, 16) if (name := name_of(s)) not in components)
    with pytest.raises(EdgegenError, match="seed 7 or seed 8 has no primitive of") as refused:
        edit_image(source, tmp_path / "none.png", replace(CUT, edits=(f"S={absent}:seed8",)))
    known = re.search("the strongest are those of regions ([0-9,]+)", str(refused.value.hint))
    assert known and known[1] in components and list(tmp_path.iterdir()) == []
    own, other = (
        panels(
            edit_image(
                source, tmp_path / f"{seed}.png", replace(CUT, edits=(f"S={known[1]}:seed{seed}",))
            )
        )
        for seed in (7, 8)
    )
    assert np.array_equal(own[0], own[2]) and np.array_equal(own[0], other[0])
    assert not np.array_equal(other[0], other[2])


def test_the_verb_writes_an_edited_picture_alone(
    folder: Path, report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strongest = document(report)["components"][0]["regions"]
    out = tmp_path / "edited.png"
    where = ["--seed", "7", "--layer", CUT.layer, "--regions", "2x2", "--baseline", "8"]
    assert run(["explain", str(folder), *where, "--edit", f"S={strongest}:0", "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"before, after, difference: {out}\n"
    assert list(tmp_path.iterdir()) == [out]


def test_layers_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["layers", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verb"] == "layers" and found["source"] == "run"
    assert [one["layer"] for one in found["layers"]][3] == "theta.trunk.middle" and found[
        "steps"
    ] == 4
    assert found["layers"][3]["maps"] == [[16, 8, 8], [32, 4, 4], [32, 4, 4]]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "E-USAGE.*Missing option '-o' / '--out'"),
        (["-o", "x.png"], "E-OUT.*or a .png file with --edit"),
        (["-o", "x", "--demands", "some"], "E-USAGE.*must be gated or optimised, got 'some'"),
        (["-o", "x", "--repeat"], "E-USAGE.*--repeat needs --demands optimised"),
        (["-o", "x", "--step", "5"], "E-USAGE.*--step 5: this sampler has 4"),
        (["-o", "x", "--label", "1"], "E-LABEL.*this generator has 0 classes"),
        (["-o", "x", "--regions", "99x1"], "E-REGIONS.*a grid of 99x1 does not fit"),
        (
            ["-o", "x", "--layer", "theta.nothing"],
            "E-LAYER.*'theta.nothing' is no layer; there are: theta.trunk.stem",
        ),
        (["-o", "x", "--edit", "2,5"], "E-EDIT.*--edit must be S=REGIONS:STRENGTH"),
        (["--layers"], "E-MOVED.*use edgegen layers SOURCE"),
        (["--against", "x", "-o", "x"], "E-MOVED.*use edgegen damage SOURCE BUNDLE -o FOLDER"),
    ],
)
def test_what_it_cannot_do(
    flags: list[str],
    sentence: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["explain", str(folder), *flags]) == 2
    assert re.search(sentence, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "S=1",
        "S=1:x",
        "S=1:seed",
        "S=1:seed-1",
        "S=1:nan",
        "S=1:inf",
        "1:0",
        "S=9:0",
        "S=1,1:0",
        "S=:0",
    ],
)
def test_bad_edits(text: str) -> None:
    with pytest.raises(EdgegenError, match=r"E-EDIT|E-REGIONS"):
        parse_edit(text, 4)


def test_the_demands_are_those_that_can_be_solved() -> None:
    assert tuple(KINDS) == DEMANDS


def test_edits_are_read() -> None:
    assert parse_edit("S=2,4:0.5", 4) == Edit(0b1010, 0.5) and parse_edit("S=1:-1", 4) == Edit(
        1, -1.0
    )
    assert parse_edit("S=2,4:seed11", 4) == Edit(0b1010, donor=11)


def test_a_matrix_has_its_darkest_cell_where_most_is() -> None:
    made = matrix(["<l>", "a", "b"], [("x<y", [0.5, -0.0]), ("z", [-0.1, 0.25])], "all")
    assert (
        "&lt;l&gt;" in made
        and "x&lt;y" in made
        and made.count("rgb(165, 0, 38)") == 1
        and ">50.0<" in made
    )
    assert made.count("rgb(255, 255, 255)") == 2 and ">0.0<" in made
    assert "Per cent of all; the darkest cell is 50.0" in made


def test_names_cannot_break_the_page() -> None:
    assert table(["<b>"], [["a & <i>", float("nan")], ["x", float("inf")]]) == (
        "<table><tr><th>&lt;b&gt;</th></tr><tr><td>a &amp; &lt;i&gt;</td><td class=n>-</td></tr>"
        "<tr><td>x</td><td class=n>exact</td></tr></table>"
    )
    assert number(0.12345) == "0.123" and number(7) == "7"
