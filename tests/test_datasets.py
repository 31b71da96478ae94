"""scripts/datasets.sh and scripts/furniture.py: nothing leaves the folder, a second run changes
nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from datasets import fashion_mnist, objects
from PIL import Image

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parent.parent / "scripts"


def furniture_archive(path: Path, icon: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "PluginFurnitureCatalog.properties",
            "icon#1=/../../evil.png\ncategory#1=../Living room\nicon#2=/x/b.png\ncategory#2=Bed\n",
        )
        archive.writestr("../../evil.png", icon)
        archive.writestr("x/b.png", icon)


def test_furniture_is_extracted_inside_its_folder_once(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(source / "icon.png")
    furniture_archive(source / "EvilName.sh3f", (source / "icon.png").read_bytes())
    run = [
        sys.executable,
        str(SCRIPTS / "furniture.py"),
        str(source),
        str(tmp_path / "deep" / "out"),
    ]
    first = subprocess.run(run, capture_output=True, text=True, check=True)
    made = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png"))
    assert made == [
        "deep/out/bed/evil-name-b-001.png",
        "deep/out/living-room/evil-name-evil-000.png",
        "in/icon.png",
    ]
    with Image.open(tmp_path / made[0]) as image:
        assert image.mode == "RGB" and image.getpixel((0, 0)) == (255, 255, 255)
    assert "2 images in 2 classes" in first.stdout and "licence" in first.stdout
    assert (
        "up to date, 2 images"
        in subprocess.run(run, capture_output=True, text=True, check=True).stdout
    )
    shutil.rmtree(tmp_path / "deep" / "out")
    (tmp_path / "deep" / "out").mkdir()
    again = subprocess.run(run, capture_output=True, text=True)
    assert again.returncode == 1 and "was not made by this script" in again.stderr


def test_the_datasets_script_says_what_it_did(tmp_path: Path) -> None:
    fashion_mnist()
    if not Path("/usr/share/sweethome3d/furniture/BlendSwap-CC-0.sh3f").exists():
        pytest.skip("the package sweethome3d-furniture is missing: run scripts/datasets.sh")
    made = objects()  # two minutes and a network, so that only what is there already is looked at
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "objects").symlink_to(made)
    done = subprocess.run(
        ["bash", str(SCRIPTS / "datasets.sh"), str(tmp_path / "c")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable},
        check=True,
    )
    assert (
        "60000 + 10000 images" in done.stdout
        and "820 images in 12 classes" in done.stdout
        and "CC BY 3.0" in done.stdout
        and f"{tmp_path / 'c' / 'objects'} is up to date, 8056 images" in done.stdout
    )
    assert (tmp_path / "c" / "fashion-mnist" / "train-images-idx3-ubyte.gz").is_file()
    assert len(list((tmp_path / "c" / "furniture").glob("*/*.png"))) == 820
