"""The tutorial's commands, each as it stands, on toys: fewer images, less time, terms that random
weights keep to.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import bring_toys
import pytest
import tiny
from page_commands import blocks, follow

from edgegen.core.plan import Plan

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "tutorial").glob("*.md"))
MORE = {
    "finetune": ("--threads", "1", "--looks", "1"),
    "export": (
        *(*tiny.TERMS, "--calibration", "32", "--max-images", "64", "--threads", "1"),
        *("--plan", "everything.json"),
    ),
    "bench": ("--rounds", "5", "--batch", "2"),
}


def commands(page: Path) -> list[str]:
    """Of edgegen, in their order."""
    return [line for block in blocks(page) for line in block if line.startswith("edgegen ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_goes_from_something_of_the_user_s_to_a_device(page: Path) -> None:
    verbs = [line.split()[1] for line in commands(page)]
    assert verbs.index("export") < max(k for k, verb in enumerate(verbs) if verb == "generate")
    assert verbs[-1] == "bench" and len(verbs) >= 5


@pytest.mark.slow
@pytest.mark.export
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_can_be_followed(
    page: Path,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path / "cache"))
    shutil.copytree(ROOT / "tests" / "data" / "photos", tmp_path / "PHOTOS")
    bring_toys.prompted(tmp_path / "my-model")
    (tmp_path / "prompts.txt").write_text("a red shoe\na blue hat\na bag\na coat\n")
    (tmp_path / "everything.json").write_bytes(Plan((("*", "int8"),), {}).to_bytes())
    said = follow(commands(page), MORE, capfd, {"cas-dm": str(tiny_run)})
    if page.stem == "photos":  # the toy has no classes, and the folder has three
        assert "W-CLASS-UNUSED: the base has no classes" in said
