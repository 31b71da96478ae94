"""A report's page, charts and tables say what the document says, whatever names are in it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import re
import xml.dom.minidom
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benched import NASTY, document, images, large, not_measured, row
from browser import browser, opened

from edgegen.core.counting import counted
from edgegen.core.files import to_json
from edgegen.errors import InputError
from edgegen.evidence.bench_document import (
    FILE,
    BenchDocument,
    BenchRow,
    RawSamples,
    read_document,
)
from edgegen.evidence.bench_page.charts import chart_file
from edgegen.evidence.bench_page.page import at_a_glance, page
from edgegen.evidence.bench_page.strips import fitting, read_strip, reduced, strip
from edgegen.evidence.bench_page.style import SCRIPT
from edgegen.evidence.bench_peers import peers_in_words
from edgegen.evidence.bench_tables import csv_bytes, markdown_bytes
from edgegen.evidence.pareto import charts, in_words

FAST = row("a", "openvino", "int8", 5.0)
SLOW = row("a", "onnxruntime", "int8", 9.0, levels=4)
FULL = row("a", "onnxruntime", "fp32", 20.0)
FAILED = not_measured("a", "tensorrt", "failed", "E-GRAPH-RUN: it cannot be loaded: no kernel")
SKIPPED = not_measured("a", "tensorrt-rtx", "skipped", "tensorrt_rtx is not installed")
WHOLE = document(FAST, SLOW, FULL, FAILED, SKIPPED)


def without(found: BenchDocument, *path: Any, value: Any = None) -> bytes:
    """The file with one value changed."""
    data = json.loads(found.to_bytes())
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return to_json(data)


# who beats whom


def test_the_front_and_who_is_dominated() -> None:
    (chart,) = charts(WHOLE)
    assert [point.row.label for point in chart.front] == ["openvino INT8", "onnxruntime FP32"]
    words = in_words(chart)
    assert words[0].startswith("On the front are openvino INT8 and onnxruntime FP32")
    assert "openvino INT8 dominates onnxruntime INT8 (1.80 x the time, 6.0 dB less near)." in words
    assert [why for _, why in chart.left_out] == ["failed", "skipped"]


def test_an_unstable_row_is_neither_compared_nor_on_the_front() -> None:
    shaky = row("a", "openvino", "int8", 1.0, scatter=0.5)
    made = document(shaky, SLOW, FULL)
    (chart,) = charts(made)
    assert "openvino INT8" not in [point.row.label for point in chart.points]
    assert "openvino INT8 is not compared: it is unstable." in in_words(chart)
    assert made.rows[0].latency[0].speed is None and made.rows[1].latency[0].speed is not None
    assert "openvino" not in at_a_glance(made, made.bundles[0])[1]


def test_no_speed_where_full_precision_is_unstable() -> None:
    made = document(FAST, row("a", "onnxruntime", "fp32", 20.0, scatter=0.5))
    assert made.rows[0].latency[0].speed is None


def test_a_speed_is_against_the_fastest_full_precision_of_the_bundle() -> None:
    other = row("b", "onnxruntime", "fp32", 1.0)
    made = document(FAST, FULL, row("a", "openvino", "fp32", 15.0), other)
    first = made.rows[0].first
    assert first is not None and first.speed == pytest.approx(3.0)


def test_a_drift_of_the_machine_cancels_in_a_speed() -> None:
    """Both get slower and faster again together, by a tenth."""
    drift = [1 + 0.1 * math.sin(k) for k in range(25)]
    made = document(*(drifting(one, drift) for one in (FAST, FULL)))
    first = made.rows[0].first
    assert first is not None and first.speed == pytest.approx(4.0)
    assert first.speed_low == pytest.approx(4.0) and first.speed_high == pytest.approx(4.0)


def drifting(one: BenchRow, drift: list[float]) -> BenchRow:
    first = one.latency[0]
    raw = RawSamples(
        cpu_ms=[first.cpu.p50 * k for k in drift], wall_ms=[first.wall.p50 * k for k in drift]
    )
    return one.model_copy(update={"latency": [first.model_copy(update={"samples": raw})]})


def test_rows_of_another_full_precision_are_in_a_chart_of_their_own() -> None:
    made = document(FAST, FULL, row("b", "openvino", "int8", 1.0))
    assert len(charts(made)) == 1 and charts(made)[0].has_several
    apart = [
        one.model_copy(update={"full_sha256": f"{k}" * 64}) for k, one in enumerate(made.bundles)
    ]
    assert [len(c.points) for c in charts(made.model_copy(update={"bundles": apart}))] == [2, 1]


def test_damaged_images_are_on_no_front_however_fast() -> None:
    damaged = row("a", "tensorrt", "int8", 1.0, levels=60)
    (chart,) = charts(document(FAST, FULL, damaged))
    assert damaged.state == "outside" and len(chart.points) == 3
    assert [p.row.runtime for p in chart.front] == ["openvino", "onnxruntime"]
    assert "no other row that is not outside is as" in in_words(chart)[0]
    (alone,) = charts(document(damaged))
    assert in_words(alone) == ["There is no front: every row is outside its limits."]


def test_what_cannot_be_told_apart_is_not_said_to_be_worse() -> None:
    twin = row("a", "tensorrt", "int8", 5.01)
    (chart,) = charts(document(FAST, twin, FULL))
    assert {p.row.runtime for p in chart.front} == {"openvino", "tensorrt", "onnxruntime"}


def test_other_toolkits_are_compared_and_never_recommended() -> None:
    peer = row("a", "openvino", "int8", 4.0, peer="nncf")
    damaged = row("a", "onnxruntime", "int8", 1.0, peer="olive", levels=60)
    late = row("a", "tensorrt", "int8", 6.0, peer="modelopt")
    made = document(FAST, FULL, peer, damaged, late)
    assert damaged.state == "outside"
    said = peers_in_words(made, "a")
    assert said.startswith("The fastest of other toolkits without damage is nncf on openvino INT8;")
    assert "edgegen's fastest is 0.80 x as fast (0.80 to 0.80)" in said
    assert said in page(made, {}).decode().replace("&#x27;", "'")
    assert "nncf on openvino INT8; edgegen's fastest is 0.80 x" in markdown_bytes(made).decode()
    assert at_a_glance(made, made.bundles[0])[1].startswith("openvino INT8 makes an image in 5.00")
    assert "None of 1 ways of other toolkits" in peers_in_words(document(FAST, FULL, damaged), "a")
    shaky = row("a", "openvino", "int8", 4.0, peer="nncf", scatter=0.5)
    assert "scatter too much" in peers_in_words(document(FAST, FULL, damaged, shaky), "a")
    assert peers_in_words(WHOLE, "a") == ""
    (chart,) = charts(made)
    kinds = [re.findall(r'<(?:circle|polygon) class="(c\d)', chart_file(made, chart).decode())]
    assert len(set(kinds[0])) == len(kinds[0]) == 5, "a peer has its own mark"


# tables


def test_csv_markdown_and_json_agree() -> None:
    lines = list(csv.DictReader(io.StringIO(csv_bytes(WHOLE).decode())))
    rows = json.loads(WHOLE.to_bytes())["rows"]
    text = markdown_bytes(WHOLE).decode()
    assert len(lines) == len(rows) == 5
    for line, found in zip(lines, rows, strict=True):
        assert (line["runtime"], line["state"]) == (found["runtime"], found["state"])
        assert f"{found['runtime']} {found['precision'].upper()} | {found['state']}" in text
        if found["latency"]:
            first = found["latency"][0]
            assert float(line["batch_1_cpu_p50_ms"]) == first["cpu"]["p50"]
            assert line["batch_1_cpu_p99_ms"] == "" and first["cpu"]["p99"] is None
            assert f"{first['cpu']['p50']:.2f} | {first['cpu']['p90']:.2f}" in text
            assert (
                float(line["batch_8_images_per_second"]) == found["latency"][1]["images_per_second"]
            )
        else:
            assert line["psnr_db"] == line["batch_1_cpu_p50_ms"] == ""
    assert "E-GRAPH-RUN: it cannot be loaded: no kernel" in text
    assert "dominates onnxruntime INT8" in text and "unsigned: as its maker says" in text


def nasty() -> BenchDocument:
    """Every text that a bundle or a runtime has a say in is an attack."""
    bad = not_measured(NASTY, "tensorrt", "failed", NASTY)
    verdict = FAST.verdict
    assert verdict is not None and FAST.quality is not None and FAST.quality.worst_class is None
    evil = FAST.model_copy(
        update={
            "bundle": NASTY,
            "why": NASTY,
            "version": NASTY,
            "device": NASTY,
            "command": NASTY,
            "placement": {NASTY: {NASTY: 1}},
            "verdict": verdict.model_copy(update={"features": NASTY, "signed_by": NASTY}),
        }
    )
    made = document(evil, bad, machine={NASTY: NASTY}, versions={NASTY: NASTY}, command=NASTY)
    bundles = [
        one.model_copy(update={"family": NASTY, "source": NASTY, "signed_by": NASTY})
        for one in made.bundles
    ]
    return made.model_copy(update={"bundles": bundles})


def test_no_name_becomes_markup_or_a_formula() -> None:
    made = nasty()
    html = page(made, {}).decode()
    assert "<script>alert" not in html and "\x1b" not in html and "&lt;script&gt;" in html
    assert html.count("<script") == 1
    for chart in charts(made):
        drawn = chart_file(made, chart).decode()
        assert "<script" not in drawn
        xml.dom.minidom.parseString(drawn)
    text = markdown_bytes(made).decode()
    assert "\x1b" not in text and not re.search(r"(?<!\\)<script", text)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {11}
    formula = document(row("=1+1", "openvino", "int8", 5.0))
    assert next(csv.DictReader(io.StringIO(csv_bytes(formula).decode())))["bundle"] == "'=1+1"


# the page


def test_the_page_loads_nothing_and_allows_its_own_script_alone() -> None:
    html = page(WHOLE, {}).decode()
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html and f"<script>{SCRIPT}</script>" in html
    assert "default-src 'none'" in html and "img-src data:" in html
    loads = re.findall(r"(?:src|href)=\"?([^\" >]+)", html)
    assert all(one.startswith("data:") for one in loads) and "onclick" not in html


def test_the_page_says_every_state_and_why() -> None:
    html = page(WHOLE, {}).decode()
    for found in WHOLE.rows:
        assert f"<span class={found.state}>{found.state}</span>" in html
    assert "tensorrt_rtx is not installed" in html and "no kernel" in html
    assert "unsigned: as its maker says" in html and "FD +1.00% (-0.20% to +1.50%)" in html
    name, said = at_a_glance(WHOLE, WHOLE.bundles[0])
    assert name == "a" and said.startswith(
        "openvino INT8 makes an image in 5.00 ms of CPU time, 4.00 x as fast"
    )


def test_what_one_decides_by_comes_first_in_the_table() -> None:
    """As much as a screen of 1366 pixels holds, seen in Chromium; the rest is scrolled to."""
    heads = re.findall(r"<th scope=col><button type=button>([^<]*)", page(WHOLE, {}).decode())
    assert heads[:7] == [
        "bundle", "candidate", "CPU ms an image", "speed", "PSNR", "state of its pairs",
        "verdict of the bundle",
    ]  # fmt: skip


def test_one_thread_is_no_threads() -> None:
    assert [counted(n, "thread") for n in (1, 2, 0)] == ["1 thread", "2 threads", "0 threads"]
    said = page(WHOLE, {}).decode()
    assert f"rounds on {counted(FULL.latency[0].threads, 'thread')}." in said


def test_a_page_of_20_rows_has_less_than_3_megabytes() -> None:
    made, pictures = large()
    assert len(page(made, pictures)) < 3_000_000


def test_strips_are_as_few_and_as_small_as_fit() -> None:
    assert fitting(32, 10**6) == (8, 32) and fitting(128, 3 * 128**2 * 5) == (5, 128)
    assert fitting(512, 3 * 64**2 * 3) == (3, 64), "smaller, rather than fewer than two"
    assert fitting(512, 1) == (2, 32)
    made, factor = reduced(images(2, 128), 64)
    assert made.shape == (2, 64, 64, 3) and factor == 2
    assert reduced(images(2, 64), 64)[1] == 1


def test_a_strip_comes_back_as_it_was_written(tmp_path: Path) -> None:
    rows = [images(3, 16, k) for k in range(2)]
    about, data = strip("worst-1", rows, 16)
    (tmp_path / "pictures").mkdir()
    (tmp_path / about.file).write_bytes(data)
    assert np.array_equal(read_strip(tmp_path, about), np.stack(rows))
    (tmp_path / about.file).write_bytes(strip("worst-1", rows[:1], 16)[1])
    with pytest.raises(InputError, match="E-IMAGE-SIZE"):
        read_strip(tmp_path, about)
    (tmp_path / about.file).write_bytes(data[:100])
    with pytest.raises(InputError, match="E-IMAGE"):
        read_strip(tmp_path, about)


# the document


def test_a_document_is_read_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(WHOLE.to_bytes())
    assert read_document(tmp_path) == WHOLE


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "not a usable bench.json"),
        (b"[]", "its schema_version is None"),
        (without(WHOLE, "schema_version", value=2), "schema_version is 2, this edgegen knows 1"),
        (without(WHOLE, "schema_version", value=True), "its schema_version is True"),
        (without(WHOLE, "rows", value=[]), "rows"),
        (without(WHOLE, "rows", 0, "bundle", value="b"), "a bundle that is not listed: b"),
        (without(WHOLE, "rows", 0, "runtime", value="onnxruntime"), "two rows are one candidate"),
        (without(WHOLE, "rows", 0, "state", value="good"), "rows.0.state"),
        (without(WHOLE, "rows", 0, "latency", 0, "cpu", "p50", value=-1.0), "rows.0.latency.0.cpu"),
        (without(WHOLE, "rows", 0, "quality", "pairs", value=0), "rows.0.quality.pairs"),
        (without(WHOLE, "rows", 0, "more", value=0), "rows.0.more"),
        (
            without(
                WHOLE, "bundles", 0, "seeds",
                value={
                    "file": "../../etc/passwd", "rows": 1, "columns": 1,
                    "height": 1, "width": 1, "reduced": 1,
                },
            ),
            "bundles.0.seeds.file",
        ),
        (WHOLE.to_bytes().replace(b'"p50": 5.0', b'"p50": NaN', 1), "NaN is not a number"),
    ],
)  # fmt: skip
def test_a_damaged_document_is_refused_by_its_place(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_document(tmp_path)
    assert caught.value.code == "E-BENCH" and said in caught.value.message


# in a browser


@pytest.mark.slow
@pytest.mark.skipif(browser() is None, reason="no Chromium: the page was NOT tried in a browser")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    made, pictures = large(8, 32)
    made = made.model_copy(update={"rows": [*made.rows, *WHOLE.rows[3:]]})
    bundles = [*made.bundles, WHOLE.bundles[0].model_copy(update={"full_sha256": "2" * 64})]
    made = made.model_copy(update={"bundles": bundles})
    (tmp_path / "index.html").write_bytes(page(made, pictures))
    program = browser()
    assert program is not None
    with opened(program, tmp_path) as tab:
        tab.size(1366, 768)
        tab.open(tmp_path / "index.html")
        sort_and_check(tab, made)
        slide_and_check(tab)
        for width, is_phone in ((1366, False), (390, True)):
            tab.size(width, 768, is_phone)
            for kind, scheme in (("", "light"), ("", "dark"), ("print", "light")):
                tab.media(kind, scheme)
                ink, ground = (
                    tab.run(f"getComputedStyle(document.body).{name}")
                    for name in ("color", "backgroundColor")
                )
                dark = scheme == "dark"
                assert (brightness(ink) > brightness(ground)) == dark
                if not kind:
                    wide = tab.run("document.documentElement.scrollWidth")
                    assert wide <= width, f"the page scrolls sideways at {width}"
        assert tab.messages() == []
        assert tab.requests() == [(tmp_path / "index.html").resolve().as_uri()]


def brightness(colour: str) -> int:
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


def sort_and_check(tab: Any, made: BenchDocument) -> None:
    """By a click, and by the keyboard."""
    table = "document.querySelector('table.sortable')"
    column = f"[...{table}.tBodies[0].rows].map(row => row.cells[2].textContent)"
    button = f"{table}.querySelectorAll('th button')[2]"
    before = tab.run(column)
    assert len(before) == len(made.rows)
    tab.run(f"{button}.click()")
    rising = [float(text) for text in tab.run(column) if text != "-"]
    assert rising == sorted(rising) and len(set(rising)) > 5
    assert tab.run(f"{button}.parentElement.ariaSort") == "ascending"
    tab.run(f"{button}.focus()")
    tab.press("Enter", 13, "\r")
    falling = [float(text) for text in tab.run(column) if text != "-"]
    assert falling == sorted(rising, reverse=True)
    assert tab.run(column)[-1] == "-", "what was not measured stays at the end"


def slide_and_check(tab: Any) -> None:
    slider, pair = "document.querySelector('input[type=range]')", "document.querySelector('.pair')"
    cut = f"getComputedStyle({pair}).getPropertyValue('--cut')"
    assert tab.run(cut).strip() == "50%"
    tab.run(f"{slider}.focus()")
    tab.press("ArrowRight", 39)
    assert tab.run(f"{slider}.value") == "51" and tab.run(cut).strip() == "51%"
