"""scripts/objects.py on small packages of our own: what is kept, what is held out, what a second
run does.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageDraw

from edgegen.training.data import load

SCRIPT = Path(__file__).parent.parent / "scripts" / "objects.py"
KINDS = {
    "RED APPLE 1F34E": ("Food & Drink", "fruit"),
    "TAXI 1F695": ("Travel & Places", "transport-ground"),
    "HEART 2764-FE0F": ("Smileys & Emotion", "heart"),
    "FLAG 1F1EA-1F1EC": ("Flags", "country-flag"),
}
EMOJI = [
    {"name": name, "unified": code, "category": category, "subcategory": subcategory}
    for key, (category, subcategory) in KINDS.items()
    for name, code in [key.rsplit(" ", 1)]
]


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; its dataclasses look their module up by name."""
    spec = importlib.util.spec_from_file_location("objects_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "objects_script", module)
    spec.loader.exec_module(module)
    return module


def drawing(colour: str, size: int = 80, kind: str = "PNG", shape: str = "ellipse") -> bytes:
    """A shape in the left upper part of a transparent picture."""
    image = Image.new("RGBA", (size, size))
    getattr(ImageDraw.Draw(image), shape)((4, 8, size // 2, size // 2), fill=colour)
    file = io.BytesIO()
    image.save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


@pytest.fixture
def sources(objects: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages of four emoji by five makers, in EDGEGEN_PACKAGES, and a folder of clip art."""
    packages, made = tmp_path / "packages", []
    packages.mkdir()
    monkeypatch.setenv("EDGEGEN_PACKAGES", str(packages))
    for index, package in enumerate(objects.PACKAGES):
        kind = "WEBP" if package.maker == "fluent" else "PNG"
        with tarfile.open(packages / package.file, "w:gz") as archive:
            members = {"package/emoji.json": json.dumps(EMOJI).encode()}
            for colour, entry in zip(("red", "gold", "pink", "green"), EMOJI, strict=True):
                name = f"{package.folder}/{entry['unified'].lower()}.{kind.lower()}"
                members[name] = drawing(colour, 80 + 8 * index, kind)
                members[f"{package.folder}/../../{entry['unified']}.png"] = b"no picture"
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        digest = hashlib.sha256((packages / package.file).read_bytes()).hexdigest()
        made.append(replace(package, sha256=digest))
    monkeypatch.setattr(objects, "PACKAGES", tuple(made))
    clipart = tmp_path / "clipart"
    for folder in ("food/fruit", "buildings/furniture", "shapes", "tools"):
        (clipart / folder).mkdir(parents=True)
        (clipart / folder / "Blue_1.png").write_bytes(drawing("blue"))
    (clipart / "tools" / "again.png").write_bytes(drawing("blue"))
    (clipart / "tools" / "silhouette.png").write_bytes(drawing("black"))
    (clipart / "tools" / "poster.png").write_bytes(drawing("red", shape="rectangle"))
    (clipart / "tools" / "link.png").symlink_to(clipart / "tools" / "again.png")
    return clipart


def test_objects_are_made_once_and_read_by_training(
    objects: ModuleType, sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "out"
    objects.main(sources, out)
    rows = {
        half: [json.loads(line) for line in text.splitlines() if line]
        for half in ("train", "test")
        for text in [(out / half / "metadata.jsonl").read_text()]
    }
    labels = {
        row["file_name"]: (row["label"], row["text"]) for half in rows.values() for row in half
    }
    emoji = {name: label for name, label in labels.items() if "clip-" not in name}
    shown = {("food", "red apple"), ("vehicles", "taxi"), ("faces", "heart")}
    assert len(emoji) == 15 and set(emoji.values()) == shown
    assert set(labels) - set(emoji) == {"food/clip-food-fruit-blue-1.png"}
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png")) == sorted(
        f"{half}/{row['file_name']}" for half in rows for row in rows[half]
    )
    assert "EmojiOne" in (out / "LICENCES.md").read_text() and not (out / "packages").exists()
    kept, _ = load(out / "train", 32)
    assert kept.classes == tuple(sorted({row["label"] for row in rows["train"]}))
    made = next(out.glob("*/food/1f34e-google.png"))
    with Image.open(made) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (64, 64, 3) and pixels[32, 32].tolist() == [255, 0, 0]
    inside = np.argwhere((pixels < 200).any(2))
    assert inside.min() == 5 and inside.max() == 58  # a margin of 8 %

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    objects.main(sources, out)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert "up to date, 16 images" in capsys.readouterr().out
    again = tmp_path / "again"
    objects.main(sources, again)
    assert [p.read_bytes() for p in sorted(again.rglob("*.png"))] == [
        p.read_bytes() for p in sorted(out.rglob("*.png"))
    ]


def test_all_makers_of_a_held_out_object_are_held_out(objects: ModuleType) -> None:
    shown = [objects.emoji_object(code) for code in ("1F468-200D-1F692", "1F469-200D-1F692")]
    assert shown == ["1F692", "1F692"] and objects.half("1F692") == objects.half("1F692")
    assert objects.emoji_object("1F468") == "1F468"
    assert objects.emoji_object("1F468-200D-1F469-200D-1F466") == ""
    held = sum(objects.half(f"{code:X}") == "test" for code in range(0x1F300, 0x1F700))
    assert 70 < held < 135  # a tenth of 1024


def test_what_is_missing_or_foreign_is_said(
    objects: ModuleType, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="install openclipart-png"):
        objects.main(tmp_path / "none", tmp_path / "out")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="was not made by this script"):
        objects.main(sources, tmp_path / "mine")
    package = tmp_path / "packages" / objects.PACKAGES[0].file
    package.write_bytes(package.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"is not what version 1\.1\.0 was"):
        objects.main(sources, tmp_path / "out")
    monkeypatch.delenv("EDGEGEN_PACKAGES")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"npm is missing .*fluent-emoji-3d@1\.1\.0.*EDGEGEN_PACKAGES"
    ):
        objects.main(sources, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".edgegen-tmp-*"))
