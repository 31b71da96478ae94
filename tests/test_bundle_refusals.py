"""What a bundle cannot do, and engines that nobody vouches for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

from edgegen.cli.main import run
from edgegen.export import runtime

Capture = pytest.CaptureFixture[str]
NAMES = tiny.RUNTIMES.split(",")


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (
            ["generate", "B", "-o", "O", "--runtime", "tensorrt"],
            2,
            "the bundle has no INT8 files for tensorrt",
        ),
        (
            ["generate", "B", "-o", "O", "--precision", "int4"],
            2,
            "--precision must be int8 or fp32",
        ),
        (["generate", "B", "-o", "O", "--label", "1"], 2, "this generator has 0 classes"),
        (
            ["generate", "B", "-o", "O", "--seed", str(2**63 - 1), "-n", "2"],
            2,
            "the largest seed is 2**63 - 1",
        ),
        (
            ["generate", "B", "-o", "missing/folder/o.png"],
            2,
            "the folder to write into does not exist",
        ),
        (["verify", "B", "--runtime", "tensorrt"], 2, "the bundle has no INT8 files for tensorrt"),
        (["verify", "nowhere"], 4, "there is no such folder"),
        (["bench", "nowhere"], 4, "there is no such folder"),
    ],
)
def test_what_a_bundle_cannot_do(
    arguments: list[str],
    code: int,
    said: str,
    tiny_bundle: Path,
    tmp_path: Path,
    capfd: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    assert run([{"B": str(tiny_bundle), "O": "o"}.get(a, a) for a in arguments]) == code
    assert said in capfd.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    "tensorrt-rtx" not in NAMES, reason="tensorrt_rtx is not installed: no engine was built"
)
def test_engines_run_only_when_trusted(tiny_bundle: Path, tmp_path: Path, capfd: Capture) -> None:
    command = ["generate", str(tiny_bundle), "-o", str(tmp_path / "o"), "--runtime", "tensorrt-rtx"]
    assert run(command) == 6 and "E-ENGINE-UNTRUSTED" in capfd.readouterr().err
    if runtime("tensorrt-rtx").cannot_run():
        assert run([*command, "--trust-engines"]) == 5


@pytest.mark.skipif(
    "tensorrt-rtx" not in NAMES, reason="tensorrt_rtx is not installed: no engine was built"
)
def test_no_verb_runs_an_engine_that_is_not_trusted(
    tiny_bundle: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine with a GPU, where they could run."""
    from edgegen.export.tensorrt import TensorRtRtx

    monkeypatch.setattr(TensorRtRtx, "cannot_run", lambda self: None)
    monkeypatch.setattr(TensorRtRtx, "compiled", lambda *_: None)
    for method in ("load", "session"):
        monkeypatch.setattr(TensorRtRtx, method, lambda *_: pytest.fail("an engine was loaded"))
    assert run(["verify", str(tiny_bundle), "--threads", "1", "--runtime", "tensorrt-rtx"]) == 6
    assert "E-ENGINE-UNTRUSTED" in capfd.readouterr().err
    assert run(["bench", str(tiny_bundle), "--rounds", "5", "--batch", "1", "--json"]) == 0
    assert "--trust-engines" in json.loads(capfd.readouterr().out)["skipped"]["tensorrt-rtx"]
