"""Gates hold every row that is not full precision; each fails for what it is for, and alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benched import document, images, near, not_measured, row

from edgegen.errors import InputError
from edgegen.evidence.bench_gates import BenchGates, held_to, read_gates
from edgegen.evidence.paired_quality import PairLimits, PairSides, pairs_here

RUNTIMES = ("onnxruntime", "openvino")
FULL = row("a", "onnxruntime", "fp32", 20.0)


def gates(folder: Path, text: str) -> BenchGates:
    path = folder / "gates.toml"
    path.write_text(text)
    return read_gates(path, RUNTIMES)


def held(folder: Path, text: str, *rows: Any) -> list[tuple[str, str, bool]]:
    made = document(FULL, *rows)
    return [(g.row, g.gate, g.passed) for g in held_to(made.rows, gates(folder, text))]


@pytest.mark.parametrize(
    ("passing", "failing"),
    [
        ("min_psnr_db = 42", "min_psnr_db = 43"),
        ("max_ruined = 0.18", "max_ruined = 0.16"),
        ("max_cpu_ms = 11", "max_cpu_ms = 9.9"),
        ("max_wall_ms = 21", "max_wall_ms = 19"),
        ("min_speed = 1.9", "min_speed = 2.1"),
        ('state = "undecided"', 'state = "within"'),
    ],
)
def test_each_gate_passes_what_keeps_to_it_and_nothing_else(
    passing: str, failing: str, tmp_path: Path
) -> None:
    sound = row("a", "openvino", "int8", 10.0)
    name = passing.partition(" ")[0]
    assert held(tmp_path, passing, sound) == [("a: openvino INT8", name, True)]
    assert held(tmp_path, failing, sound) == [("a: openvino INT8", name, False)]


def test_an_unstable_row_has_no_latency_to_pass_with(tmp_path: Path) -> None:
    shaky = row("a", "openvino", "int8", 1.0, scatter=0.5)
    text = "max_cpu_ms = 100\nmax_wall_ms = 100\nmin_speed = 0.1\nmin_psnr_db = 1"
    found = {gate: passed for _, gate, passed in held(tmp_path, text, shaky)}
    assert found == {
        "max_cpu_ms": False, "max_wall_ms": False, "min_speed": False, "min_psnr_db": True
    }  # fmt: skip


def test_a_failed_row_passes_nothing_and_a_skipped_one_is_asked_by_its_own_table(
    tmp_path: Path,
) -> None:
    sound = row("a", "onnxruntime", "int8", 10.0)
    failed = not_measured("a", "openvino", "failed", "it crashed")
    skipped = not_measured("a", "openvino", "skipped", "not installed")
    every = "min_psnr_db = 1"
    assert held(tmp_path, every, sound, failed)[1] == ("a: openvino INT8", "min_psnr_db", False)
    assert [passed for *_, passed in held(tmp_path, every, sound, skipped)] == [True]
    own = f"{every}\n[runtimes.openvino]\nmax_cpu_ms = 100"
    assert held(tmp_path, own, sound, skipped)[1:] == [("a: openvino INT8", "max_cpu_ms", False)]


def test_a_gate_that_holds_nothing_fails(tmp_path: Path) -> None:
    skipped = not_measured("a", "openvino", "skipped", "not installed")
    assert held(tmp_path, "min_psnr_db = 1", skipped) == [("all rows", "min_psnr_db", False)]
    sound = row("a", "onnxruntime", "int8", 10.0)
    text = "[runtimes.openvino]\nmin_psnr_db = 1"
    assert held(tmp_path, text, sound) == [("openvino", "min_psnr_db", False)]


def test_a_runtime_s_own_limit_takes_the_place_of_the_common_one(tmp_path: Path) -> None:
    rows = [row("a", name, "int8", 10.0) for name in RUNTIMES]
    text = "max_cpu_ms = 20\nmin_psnr_db = 30\n[runtimes.openvino]\nmax_cpu_ms = 5"
    found = held(tmp_path, text, *rows)
    assert [f for f in found if not f[2]] == [("a: openvino INT8", "max_cpu_ms", False)]
    assert len(found) == 4


def test_one_ruined_pair_fails_by_its_upper_limit(tmp_path: Path) -> None:
    """One of 500 may be one of a hundred: what may be is what counts."""
    full = images(500, 8)
    other = near(full, 2)
    for ruined in (False, True):
        if ruined:
            other[3] = 255 - other[3]
        one = row(
            "a",
            "openvino",
            "int8",
            10.0,
            quality=pairs_here(PairSides("x", 0, full, other), PairLimits(0, 1)),
        )
        assert held(tmp_path, "max_ruined = 0.008", one)[0][2] is not ruined


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it holds no gate; known: min_psnr_db, max_ruined"),
        ("min_psrn_db = 3", "min_psrn_db: there is no such gate; did you mean min_psnr_db?"),
        ("[runtimes.openvino]\nx = 3", "runtimes.openvino.x: there is no such gate"),
        ("[runtimes.openvin]\nmin_psnr_db = 3", "no such runtime; did you mean openvino?"),
        ("runtimes = 3", "runtimes is no table"),
        ("[runtimes]\nopenvino = 3", "runtimes.openvino is no table"),
        ('min_psnr_db = "35"', "min_psnr_db must be a number of 0 or more, got '35'"),
        ("max_ruined = true", "max_ruined must be a number"),
        ("max_cpu_ms = nan", "max_cpu_ms must be a number"),
        ("max_cpu_ms = inf", "max_cpu_ms must be a number"),
        ("max_cpu_ms = -1", "max_cpu_ms must be a number"),
        ('state = "good"', "state must be within or undecided, got 'good'"),
        ("state", "not usable TOML"),
        ("[min_psnr_db]\nx = 1", "min_psnr_db must be a number"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_its_key(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        gates(tmp_path, text)
    assert caught.value.code == "E-GATES" and said in caught.value.message


def test_a_file_that_is_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "g", tmp_path / "none", tmp_path):
        with pytest.raises(InputError) as caught:
            read_gates(path, RUNTIMES)
        assert caught.value.code == "E-GATES"
