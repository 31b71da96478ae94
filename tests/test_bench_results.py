"""Pages of results are made of a report and nothing else; rows that lose are in them."""

from __future__ import annotations

import sys
import xml.dom.minidom
from pathlib import Path

import pytest
from benched import document, not_measured, row
from house import ROOT

from edgegen.evidence.bench_document import FILE


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield __import__("bench_results")
    sys.modules.pop("bench_results", None)


def test_a_page_has_goals_losers_machine_and_commit(results: object, tmp_path: Path) -> None:
    made = document(
        row("cas-dm", "openvino", "int8", 5.0),
        row("cas-dm", "onnxruntime", "int8", 15.0),
        row("cas-dm", "onnxruntime", "fp32", 20.0),
        row("cas-dm", "openvino", "int8", 4.0, peer="nncf"),
        not_measured("cas-dm", "tensorrt", "failed", "E-GATE: | it is outside"),
        machine={"cpu": "a CPU", "flags": "avx2, avx512_vnni"},
    )
    (tmp_path / FILE).write_bytes(made.to_bytes())
    places = results.written(tmp_path, tmp_path, "abc1234")  # type: ignore[attr-defined]
    assert [place.name for place in places] == [
        "zoo-vnni.md",
        "zoo-vnni.svg",
        "zoo-vnni-1.svg",
    ]
    text = places[0].read_text()
    assert "at commit abc1234" in text and "cpu: a CPU" in text
    assert "| openvino, geometric mean of cas-dm | \\>= 2.5 x | 4.00 x | met |" in text
    assert "| onnxruntime, geometric mean of cas-dm | \\>= 1.6 x | 1.33 x | **missed** |" in text
    assert "0.80 x the time (nncf), **behind**" in text
    assert "nncf on openvino INT8" in text and "E-GATE: \\| it is outside" in text
    for picture in places[1:]:
        xml.dom.minidom.parse(str(picture))
        assert f"({picture.name})" in text, "the page shows it"
    assert "cas-dm, openvino INT8" in places[1].read_text()


def test_bundles_at_other_steps_have_no_part_in_a_mean(results: object) -> None:
    """A folder that somebody calls after another number is at its generator's own steps."""
    names = {"cas-dm": 10, "cas-dm-1-step": 1, "cas-dm-4-steps": 4, "shoes-4-steps": 10}
    made = document(*(row(name, "openvino", "int8", 5.0) for name in names))
    bundles = [one.model_copy(update={"steps": names[one.name]}) for one in made.bundles]
    found = results.own_steps(made.model_copy(update={"bundles": bundles}))  # type: ignore[attr-defined]
    assert [one.name for one in found] == ["cas-dm", "shoes-4-steps"]
