"""Every Python block of the README and of the docs runs, on toys: the zoo's names are a toy's run,
and an export takes a plan instead of searching one.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgegen
from edgegen.workflows import generators

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SMALL = {
    "ExportSettings": "plan=TOY_PLAN, min_psnr_db=0, max_ruined=0.02, max_moved=0.5, "
    "max_apart=0.2, max_images=500, calibration_samples=32, threads=1",
    "ExplainSettings": "baseline=16, threads=1",
    "DamageSettings": "seeds=2, quick=True, threads=1",
}

pytestmark = [pytest.mark.slow, pytest.mark.export]


def snippets() -> Iterator[Any]:
    for page in PAGES:
        for number, match in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8"))):
            name = f"{page.relative_to(ROOT).as_posix()}-{number}"
            yield pytest.param(match[1], id=name)


def on_toys(source: str) -> str:
    """A budget that random weights keep, a plan, and few images; the rest of the snippet stays as
    it is.
    """
    for settings, toys in SMALL.items():
        source = source.replace(f"{settings}(", f"{settings}({toys}, ")
    return source.replace("fid_budget=0.02", "fid_budget=1.0")


@pytest.fixture
def workplace(
    tiny_run: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A working folder as the pages have it: bundles under out/, an adapted run under runs/."""
    monkeypatch.chdir(tmp_path)
    for name in ("isc-gan", "cas-dm", "a"):
        shutil.copytree(tiny_bundle, tmp_path / "out" / name)
    shutil.copytree(Path(__file__).parent / "golden" / "bundle-2-prompts", tmp_path / "out/prompts")
    load = generators.load_generator

    def toy(generator: str | Path) -> Any:
        return load(tiny_run if str(generator) in ("cas-dm", "isc-gan") else generator)

    monkeypatch.setattr(edgegen, "load_generator", toy)
    return tmp_path


@pytest.mark.parametrize("source", list(snippets()))
def test_a_snippet_runs(source: str, workplace: Path) -> None:
    if "runs/site" in source:
        import adapters

        (workplace / "runs").mkdir()
        adapters.run("cas-dm", workplace / "runs" / "site")
    if "export_bundle" in source:
        shutil.rmtree(workplace / "out" / "a")
    plan = workplace / "out" / "cas-dm" / "int8" / "onnxruntime" / "plan.json"
    exec(compile(on_toys(source), "snippet", "exec"), {"__name__": "snippet", "TOY_PLAN": plan})


def test_there_are_snippets() -> None:
    found = [param.id for param in snippets()]
    assert {f"docs/python.md-{k}" for k in range(4)} <= set(found)
