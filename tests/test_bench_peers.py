"""Other toolkits in a bench: each in its own Python, what it wrote is a file from outside, and one
that fails is a row with its own last words.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benched import toy
from test_bench_report import OWN, QUICK

from edgegen.core.progress import silent
from edgegen.errors import UsageError
from edgegen.evidence.bench_document import BenchRow, read_document
from edgegen.workflows.bench_report import measured, peers
from edgegen.workflows.bench_report.candidates import candidates_of, opened_bundles
from edgegen.workflows.bench_report.peer_candidates import peer_candidates
from edgegen.workflows.bench_report.peers import PEERS, Peer, Variant, without_places
from edgegen.workflows.bench_report.run import bench_bundles
from edgegen.workflows.bench_report.settings import BenchReportSettings

BEGIN = "import sys, shutil\ngraph, feeds, out = sys.argv[1:4]\n"
COPIES = BEGIN + 'shutil.copy(graph, out + ".onnx")'
FAILS = {
    "raises": BEGIN + 'raise ValueError(f"no kernel for {graph}")',
    "crashes": BEGIN + "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)",
    "writes nothing": BEGIN,
    "writes no graph": BEGIN + 'open(out + ".onnx", "w").write("<html>")',
    "reads elsewhere": BEGIN
    + """
import onnx
model = onnx.load(graph)
one = model.graph.initializer[0]
one.ClearField("raw_data")
one.data_location = onnx.TensorProto.EXTERNAL
entry = one.external_data.add()
entry.key, entry.value = "location", "/etc/passwd"
open(out + ".onnx", "wb").write(model.SerializeToString())
""",
}


def settings(tool: str = "toy", python: str = "") -> BenchReportSettings:
    return BenchReportSettings(**{**vars(QUICK), "pairs": 8, "peers": {tool: python}})


def tool(monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    """A toolkit whose variants are these programs; numpy is its package."""
    variants = tuple(Variant(name, code, "onnxruntime") for name, code in programs.items())
    monkeypatch.setitem(PEERS, "toy", Peer(("no such package", "numpy"), variants))


def rows(tmp_path: Path, asked: BenchReportSettings) -> Sequence[BenchRow]:
    return bench_bundles([toy(tmp_path / "a")], tmp_path / "report", asked).document.rows


@pytest.mark.slow
def test_what_a_peer_wrote_is_measured_beside_our_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Full precision that a tool hands back as its own is full precision: equal, in a process of
    its own too.
    """
    tool(monkeypatch, copies=COPIES)
    _, _, peer = rows(tmp_path, settings())
    document = read_document(tmp_path / "report")
    assert peer.name == "a: copies on onnxruntime INT8" and peer.peer == "copies"
    assert peer.quality is not None and peer.quality.same_pixels == 1
    assert peer.own is not None and peer.own.load_ms > 0 and peer.latency and peer.verdict is None
    assert document.versions["toy, a peer"] == np.__version__
    assert peer.command.endswith("--peer toy --report report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert "copies on onnxruntime INT8" in page
    assert str(tmp_path) not in document.to_bytes().decode()


@pytest.mark.slow
def test_a_peer_that_fails_is_a_row_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measured, "in_own_process", lambda _: OWN)
    tool(monkeypatch, **FAILS)
    _, _, *failed = rows(tmp_path, settings())
    assert {row.state for row in failed} == {"failed"} and len(failed) == len(FAILS)
    raises, crashes, nothing, none, elsewhere = (row.why for row in failed)
    assert raises.startswith("ValueError: no kernel for ") and "/tmp" not in raises
    assert crashes == "SIGSEGV: it printed no reason"
    assert nothing == "it ended without an error but wrote no file"
    assert none.startswith("E-ONNX-PARSE: ")
    assert elsewhere.startswith("E-ONNX-EXTERNAL: "), "never read: the door is before the runtime"


def test_a_python_that_is_not_there_is_refused_before_any_work(tmp_path: Path) -> None:
    nowhere = tmp_path / "bin" / "python"
    with pytest.raises(UsageError, match=r"--peer nncf=.*/bin/python: there is no program"):
        settings("nncf", str(nowhere))
    nowhere.parent.mkdir()
    nowhere.write_text("no program")
    with pytest.raises(UsageError, match="there is no program of this name"):
        settings("nncf", str(nowhere))
    assert settings("nncf", sys.executable).peers == {"nncf": sys.executable}


def test_one_without_its_package_or_that_cannot_be_started_is_skipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(PEERS, "toy", Peer(("no such package",), PEERS["olive"].variants[:1]))
    opened = opened_bundles([toy(tmp_path / "a")], None, None)
    own = candidates_of(opened, None, False)
    no_program = tmp_path / "python"
    no_program.write_bytes(b"\x7fELF")
    no_program.chmod(0o755)
    for python, why in (
        ("", "no such package is not installed in the Python that was named"),
        (str(no_program), "it cannot be started: Exec format error"),
    ):
        (place := tmp_path / f"run {why[:3]}").mkdir()
        found = peer_candidates(opened, own, settings("toy", python), place, silent)
        assert [why in one.why for one in found.candidates] == [True] and not found.failed


def test_one_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool(monkeypatch, hangs=BEGIN + "import time\nprint('calibrating', flush=True)\ntime.sleep(60)")
    one = peers.Quantizing("toy", sys.executable, tmp_path)
    began = time.monotonic()
    with pytest.raises(peers.PeerFailed, match="it had not finished after 1 s"):
        one._run(PEERS["toy"].variants[0].program, "a", "b", "c", limit=1)
    assert time.monotonic() - began < 30


def test_a_runtime_that_was_not_asked_for_is_no_peer_s(tmp_path: Path) -> None:
    opened = opened_bundles([toy(tmp_path / "a")], None, None)
    with pytest.raises(UsageError, match="--peer nncf: openvino executes what it writes"):
        peer_candidates(opened, [], settings("nncf"), tmp_path, silent)


def test_places_of_this_machine_are_left_out() -> None:
    said = without_places("in /tmp/a run/full.onnx, /opt/lib/a.py: 3 / 4 MB/s", "/tmp/a run")
    assert said == "in .../full.onnx, .../a.py: 3 / 4 MB/s"


@pytest.mark.slow
def test_onnx_runtime_s_own_quantizer_takes_part(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(measured, "in_own_process", lambda _: OWN)
    monkeypatch.setattr(peers, "SEEDS", 16)
    _, _, plain, inner = rows(tmp_path, settings("onnxruntime"))
    assert plain.peer == "quantize_static" and inner.peer == "quantize_static of inner convolutions"
    for row in (plain, inner):
        assert row.state != "failed", row.why
        assert row.quality is not None and 0 < row.quality.same_pixels < 1
