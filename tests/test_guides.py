"""Guides name what is there, and the commands of signing are followed as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import page_commands
import pytest
from house import ROOT

from edgegen.cli.exit_contract import ENVIRONMENT
from edgegen.cli.main import run
from edgegen.core.error_codes import CODES, WARNINGS
from edgegen.core.offline import OFFLINE

GUIDES = ROOT / "docs" / "guides"
TOY = ROOT / "tests" / "golden" / "bundle-1-toy"
SH = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
TROUBLES = (GUIDES / "troubleshooting.md").read_text("utf-8")


def test_troubleshooting_has_ten_situations_with_codes_that_are_there() -> None:
    numbers = [int(n) for n in re.findall(r"^## (\d+)\. ", TROUBLES, re.MULTILINE)]
    assert numbers == list(range(1, 11))
    named = set(re.findall(r"`([EW]-[A-Z0-9-]+)`", TROUBLES))
    assert len(named) >= 20 and named <= {*CODES, *WARNINGS}


def test_troubleshooting_repeats_no_remedy_of_the_table() -> None:
    said = " ".join(TROUBLES.split())
    assert [code for code, one in CODES.items() if one.remedy in said or one.cause in said] == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the key")
def test_signing_can_be_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """All but the last block, which recomputes the evidence."""
    shutil.copytree(TOY, tmp_path / "out" / "site")
    (tmp_path / "out" / "site" / "model.sig").unlink()  # of the OpenSSF's tool
    monkeypatch.chdir(tmp_path)
    key, *blocks = page_commands.blocks(GUIDES / "signing.md")
    for line in key:
        subprocess.run(line.split(), check=True, capture_output=True)
    said = page_commands.follow([line for block in blocks[:-1] for line in block], {}, capfd)
    assert "signed by key" in said
    assert blocks[-1][0].startswith("edgegen verify out/site --public-key site.pub.pem ")
    again = ["generate", "out/site", "--public-key", "site.pub.pem", "-o", "again.png"]
    assert run([*again, "--least-release", "13"]) == 6
    assert "E-RELEASE" in capfd.readouterr().err


def test_every_environment_variable_is_in_the_reference() -> None:
    said = (ROOT / "docs" / "commands.md").read_text("utf-8")
    assert [name for name in (*ENVIRONMENT, *OFFLINE) if f"`{name}`" not in said] == []


def test_make_airgap_runs_the_blocks_of_the_wheelhouse() -> None:
    """scripts/airgap.sh takes the first block for the office, and the second for the device."""
    page = (GUIDES / "air-gap.md").read_text("utf-8")
    office, device = SH.findall(page)
    assert "--require-hashes" in office and office.count("\n") == 6
    assert device.count("--no-index") == 2 and "--require-hashes" in device
    assert all("--no-index" in line for line in device.splitlines() if " pip install " in line)
    script = (ROOT / "scripts" / "airgap.sh").read_text("utf-8")
    assert "docs/guides/air-gap.md" in script and "$(block 1" in script and "$(block 2)" in script
    named = set(re.findall(r"requirements/([\w-]+\.txt)", page))
    assert named and all((ROOT / "requirements" / name).is_file() for name in named)
