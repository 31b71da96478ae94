"""Colour renders out of Sweet Home 3D furniture archives: furniture.py ARCHIVES OUT ->
OUT/<class>/<archive>-<name>.png on white.

An archive is a zip; its PluginFurnitureCatalog.properties gives each piece an icon (PNG) and a
category, which becomes the class. Members are read one by one, by the names the catalogue lists,
with a size limit; no name from the archive is used as a path. OUT appears whole or not at all, and
is left alone when it was made from the same archives.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from PIL import Image

CATALOG = "PluginFurnitureCatalog.properties"
LIMIT = 8 << 20  # bytes of one member; the largest icon has about 0.5 MB
MARK = ".sources.json"
NOTE = "LICENSES.txt"
LICENCES = {
    "BlendSwap-CC-0": "CC0 1.0 (public domain), Blend Swap authors, Emmanuel Puybaret",
    "BlendSwap-CC-BY": "CC BY 3.0, Blend Swap authors, Emmanuel Puybaret",
    "KatorLegaz": "CC BY 3.0 US, Andrew Kator & Jennifer Legaz",
    "Reallusion": "CC BY 3.0 US, Reallusion",
    "Scopia": "CC BY 3.0, Scopia Visual Interfaces Systems",
}


def member(archive: zipfile.ZipFile, name: str) -> bytes:
    """One member of at most LIMIT bytes, whatever its header claims."""
    with archive.open(name) as file:
        data = file.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise ValueError(f"{name} is larger than {LIMIT >> 20} MiB")
    return data


def icons(archive: zipfile.ZipFile) -> list[tuple[str, str]]:
    """(member, category) of every piece in the catalogue, in its order."""
    text = member(archive, CATALOG).decode("latin-1")
    entries = {
        (key, int(n)): value
        for key, n, value in re.findall(r"(?m)^(icon|category)#(\d+)\s*=\s*(.*?)\s*$", text)
    }
    return [
        (value.lstrip("/"), entries["category", n])
        for (key, n), value in sorted(entries.items())
        if key == "icon"
    ]


def plain(text: str) -> str:
    """Lower-case letters, digits and hyphens: safe as a file name."""
    return (
        re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z])(?=[A-Z])", "-", text).lower()).strip("-")
        or "none"
    )


def on_white(data: bytes) -> Image.Image:
    """RGB picture of a PNG, its transparent parts white."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
        rgba = opened.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def extract(source: Path, out: Path) -> int:
    """Icons of one archive into out/<class>/; how many."""
    count = 0
    with zipfile.ZipFile(source) as archive:
        for name, category in icons(archive):
            folder = out / plain(category)
            folder.mkdir(exist_ok=True)
            on_white(member(archive, name)).save(
                folder / f"{plain(source.stem)}-{plain(Path(name).stem)}-{count:03d}.png"
            )
            count += 1
    return count


def main(archives: Path, out: Path) -> None:
    """Make `out` unless it is there, made from the same archives by the same script."""
    sources = sorted(archives.glob("*.sh3f"))
    if not sources:
        sys.exit(f"furniture.py: no .sh3f archives in {archives}: install sweethome3d-furniture")
    made_from = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in [*sources, Path(__file__)]
    }
    licences = [
        f"{path.stem}: {LICENCES.get(path.stem, 'see LICENSE.TXT in the archive')}"
        for path in sources
    ]
    if (out / MARK).is_file() and json.loads((out / MARK).read_text()) == made_from:
        print(f"furniture: {out} is up to date, {len(list(out.glob('*/*.png')))} images")
    elif out.exists() and not (out / MARK).is_file():
        sys.exit(f"furniture.py: {out} exists and was not made by this script: move it away")
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=".edgegen-tmp-", dir=out.parent))
        try:
            counts = {path.stem: extract(path, new) for path in sources}
            note = (
                "Renders from the Debian package sweethome3d-furniture (sweethome3d.com), "
                "composited on white."
            )
            (new / NOTE).write_text("\n".join([note, *licences, ""]))
            (new / MARK).write_text(json.dumps(made_from))
            new.chmod(0o755)
            if out.exists():
                shutil.rmtree(out)
            os.rename(new, out)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        classes = sum(path.is_dir() for path in out.iterdir())
        print(f"furniture: {sum(counts.values())} images in {classes} classes in {out}")
    print("\n".join(f"  licence {line}" for line in licences))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: furniture.py ARCHIVES OUT")
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        sys.exit(f"furniture.py: {error}")
