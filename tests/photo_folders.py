"""Sets of photos as cameras, shops, network drives and other trainers leave them: the files of
each, and what is understood of it.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

Files = Mapping[str, bytes | str | int]  # a number: a photo of its own; a text: a file's content


def photo(seed: int, kind: str = "PNG") -> bytes:
    """20 pixels a side, of no other seed's colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def content(value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return photo(value)
    return value.encode() if isinstance(value, str) else value


def write(root: Path, files: Files) -> Path:
    for name, value in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content(value))
    return root


def zipped(path: Path, files: Files, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, value in files.items():
            archive.writestr(name, content(value))
    return path


def several(pattern: str, count: int, first: int = 0) -> dict[str, int]:
    """Photos under names with a number in the place of {}."""
    return {pattern.format(k): first + k for k in range(count)}


@dataclass(frozen=True)
class Case:
    """files; said: the line; classes: name -> photos; asks: words of the error that asks, "" for
    none; plain: the line with --no-classes, "" where it is the same or does not matter.
    """

    files: Files
    said: str
    classes: Mapping[str, int] = field(default_factory=dict)
    asks: str = ""
    plain: str = ""


def rows(*values: Mapping[str, object]) -> str:
    return "\n".join(map(json.dumps, values))


CHAIRS = {**several("chair/{}.png", 3), **several("sofa/{}.png", 2, 10)}
TWO = {"chair": 3, "sofa": 2}
FLAT = several("{}.png", 3)


def inside(folder: str, files: Files, first: int = 0) -> dict[str, bytes | str | int]:
    """The same in a folder, with other photos."""
    return {
        f"{folder}/{name}": value + first if isinstance(value, int) else value
        for name, value in files.items()
    }


CASES: dict[str, Case] = {
    "class folders": Case(
        CHAIRS, "2 classes, chair and sofa", TWO, plain="5 photos without classes"
    ),
    "one folder": Case(FLAT, "3 photos without classes"),
    "deep class folders": Case(
        {**several("chair/a/b/{}.png", 2), "sofa/9.png": 9},
        "2 classes, chair and sofa",
        {"chair": 2, "sofa": 1},
    ),
    # names of splits
    "train and test": Case(
        {**inside("train", CHAIRS), **inside("test", CHAIRS, 100)},
        "2 classes, chair and sofa, over train/ and test/",
        {"chair": 6, "sofa": 4},
    ),
    "train, val and test in capitals": Case(
        {**inside("Train", CHAIRS), **inside("VAL", CHAIRS, 50), **inside("Test", CHAIRS, 100)},
        "2 classes, chair and sofa, over Train/, VAL/ and Test/",
        {"chair": 9, "sofa": 6},
    ),
    "splits without classes": Case(
        {**inside("train", FLAT), **inside("valid", FLAT, 50)},
        "6 photos without classes, over train/ and valid/",
    ),
    "one split alone": Case(inside("train", CHAIRS), "2 classes, chair and sofa, in train/", TWO),
    "a split in a folder of data": Case(
        inside("data/train", CHAIRS), "2 classes, chair and sofa, in data/, in train/", TWO
    ),
    "test without classes (Kaggle)": Case(
        {**inside("train", CHAIRS), **inside("test", FLAT, 50)},
        "8 photos without classes, over train/ and test/",
        asks="3 images in test/ have no class beside folders that hold 5",
    ),
    "splits beside a class": Case(
        {**inside("train", FLAT), **inside("val", FLAT, 50), **inside("chair", FLAT, 100)},
        "9 photos without classes",
        asks="train and val may be parts of the set, and chair classes beside them",
    ),
    "a train is a vehicle": Case(
        {"car/1.png": 1, "train/2.png": 2, "bus/3.png": 3},
        "3 classes, bus, car and train",
        {"bus": 1, "car": 1, "train": 1},
    ),
    "YOLO": Case(
        {
            **inside("train/images", FLAT),
            **inside("valid/images", FLAT, 50),
            "train/labels/0.txt": "0 1 1 1 1",
            "data.yaml": "nc: 1",
        },
        "6 photos without classes, in images/, over train/ and valid/",
    ),
    "MVTec AD": Case(
        {
            **inside("train/good", FLAT),
            **inside("test/good", FLAT, 20),
            **inside("test/broken", FLAT, 40),
            **several("ground_truth/broken/{}_mask.png", 3, 60),
        },
        "2 classes, broken and good, over train/ and test/; 3 masks left out",
        {"broken": 3, "good": 6},
    ),
    # StyleGAN and other chunks
    "StyleGAN": Case(
        {
            **several("00000/img0000000{}.png", 3),
            **several("00001/img0000100{}.png", 2, 10),
            "dataset.json": json.dumps(
                {
                    "labels": [
                        *([f"00000/img0000000{k}.png", 0] for k in range(3)),
                        *([f"00001/img0000100{k}.png", 1] for k in range(2)),
                    ]
                }
            ),
        },
        "2 classes, 0 and 1, by dataset.json",
        {"0": 3, "1": 2},
    ),
    "StyleGAN without labels": Case(
        {
            **several("00000/img0000000{}.png", 3),
            "00001/img00001000.png": 9,
            "dataset.json": '{"labels": null}',
        },
        "4 photos without classes, in 2 numbered folders; dataset.json names no label",
    ),
    "FFHQ's chunks": Case(
        {**several("00000/0000{}.png", 3), **several("01000/0100{}.png", 3, 10)},
        "6 photos without classes, in 2 numbered folders",
    ),
    "digits are classes": Case(
        {**several("0/{}.png", 2), **several("1/{}.png", 2, 10)},
        "2 classes, 0 and 1",
        {"0": 2, "1": 2},
    ),
    # network drives and systems
    "Synology": Case(
        {
            **CHAIRS,
            **several("chair/@eaDir/{}.png/SYNOPHOTO_THUMB_M.jpg", 3, 20),
            **several("chair/@eaDir/{}.png/SYNOPHOTO_THUMB_XL.jpg", 3, 30),
            **several("#recycle/{}.jpg", 2, 40),
        },
        "2 classes, chair and sofa; 6 thumbnails and 2 deleted photos of a network drive left out",
        TWO,
    ),
    "QNAP": Case(
        {**CHAIRS, "chair/.@__thumb/0.png": 30, "@Recycle/1.png": 31},
        "2 classes, chair and sofa; 1 deleted photo and 1 thumbnail of a network drive left out",
        TWO,
    ),
    "a thumbnail beside its photo": Case(
        {**FLAT, "SYNOPHOTO_THUMB_SM.jpg": 9},
        "3 photos without classes; 1 thumbnail of a network drive left out",
    ),
    "Windows": Case(
        {**FLAT, "$RECYCLE.BIN/S-1-5-21/$R1.jpg": 9, "Thumbs.db": "x", "desktop.ini": "x"},
        "3 photos without classes; 1 deleted photo of a Windows drive left out",
    ),
    "macOS": Case(
        {**CHAIRS, "__MACOSX/chair/._0.png": b"fork", "chair/._0.png": b"fork", ".DS_Store": "x"},
        "2 classes, chair and sofa; 1 resource fork of macOS left out",
        TWO,
    ),
    "hidden folders": Case(
        {**FLAT, ".git/a.png": 8, ".cache/b.png": 9},
        "3 photos without classes; 2 hidden photos left out",
    ),
    # shops, cameras, galleries
    "a shop's sizes": Case(
        {"a.jpg": 1, "a-150x150.jpg": 2, "a-300x200.jpg": 3, "b-300x200.jpg": 4},
        "2 photos without classes; 2 smaller copies of a shop system left out",
    ),
    "PrestaShop": Case(
        {"12.jpg": 1, "12-home_default.jpg": 2, "12-small_default.jpg": 3},
        "1 photo without classes; 2 smaller copies of a shop system left out",
    ),
    "a gallery": Case(
        {**FLAT, **inside("thumbs", FLAT, 50)},
        "3 photos without classes; 3 thumbnails of a gallery left out",
    ),
    "a camera's card": Case(
        {
            **several("DCIM/100CANON/IMG_000{}.JPG", 2),
            "DCIM/100CANON/IMG_0000.CR2": b"II*\0raw",
            "DCIM/100CANON/MVI_0009.MP4": b"video",
            "DCIM/101CANON/IMG_0003.JPG": 3,
        },
        "3 photos without classes, in 2 camera folders; 1 raw or HEIC version of photos that are "
        "kept left out",
    ),
    "folders by date": Case(
        {"2024-05-13/a.jpg": 1, "2024-05-14 fair/b.jpg": 2},
        "2 photos without classes, in 2 dated folders",
    ),
    "an iPhone's pairs": Case(
        {"IMG_1.HEIC": b"\0\0\0\x18ftypheic", "IMG_1.JPG": 1, "IMG_2.JPG": 2, "IMG_2.MOV": b"m"},
        "2 photos without classes; 1 raw or HEIC version of photos that are kept left out",
    ),
    # other trainers
    "kohya": Case(
        {
            **several("img/10_chair/{}.png", 2),
            "img/10_chair/0.txt": "a chair",
            "img/5_sofa/9.png": 9,
            "img/5_sofa/9.npz": b"latent",
            "reg/1_furniture/8.png": 8,
            "log/x.txt": "x",
        },
        "2 classes, chair and sofa, in img/; 1 regularisation photo of another trainer left out; "
        "2 caption files not read; the numbers before class names are taken for repeats, and off",
        {"chair": 2, "sofa": 1},
    ),
    "OneTrainer": Case(
        {**FLAT, "0-masklabel.png": 9, "0.txt": "a chair", "1.caption": "a sofa"},
        "3 photos without classes; 1 mask of another trainer left out; 2 caption files not read",
    ),
    "images and masks": Case(
        {**inside("images", FLAT), **inside("masks", FLAT, 50)},
        "3 photos without classes, in images/; 3 masks left out",
    ),
    "one class, or two in it": Case(
        {**inside("renders/front", FLAT), **inside("renders/back", FLAT, 50)},
        "6 photos without classes",
        asks="'renders' may be one class, or back and front in it may be classes",
    ),
    "mixed": Case(
        {**CHAIRS, "cover.png": 50},
        "6 photos without classes",
        asks="1 image lies beside class folders that hold 5",
    ),
    # names
    "two forms of one name": Case(
        {"st\u00fchle/1.png": 1, "stu\u0308hle/2.png": 2, "sofa/3.png": 3},
        "2 classes, sofa and st\u00fchle",
        {"sofa": 1, "st\u00fchle": 2},
    ),
    "any suffix": Case(
        {
            "a.jfif": photo(1, "JPEG"),
            "b.jpe": photo(2, "JPEG"),
            "c.jpg_large": photo(3, "JPEG"),
            "photo.jpg?w=800": photo(4, "JPEG"),
            "none": photo(5, "WEBP"),
            "f.txt": "BM is how some texts begin",
        },
        "5 photos without classes",
    ),
    # tables
    "metadata.jsonl": Case(
        {
            **FLAT,
            "metadata.jsonl": "\ufeff"
            + rows({"file_name": "0.png", "label": "a"}, {"file_name": "1.png", "label": "b"}),
        },
        "2 classes, a and b, by label in metadata.jsonl",
        {"a": 1, "b": 1},
    ),
    "metadata.csv of a German Excel": Case(
        {**FLAT, "metadata.csv": "\ufefffile_name;label;price\r\n0.png;a;1,5\r\n1.png;b;2\r\n"},
        "2 classes, a and b, by label in metadata.csv; column price of metadata.csv not read",
        {"a": 1, "b": 1},
    ),
    "another name for the class": Case(
        {**FLAT, "metadata.csv": "image,category\n0.png,a\n1.png,a\n2.png,b\n"},
        "2 classes, a and b, by category in metadata.csv",
        {"a": 2, "b": 1},
    ),
    "columns that nobody knows": Case(
        {
            **FLAT,
            "metadata.jsonl": rows(*({"file_name": f"{k}.png", "kind": "a"} for k in range(3))),
        },
        "3 photos without classes; column kind of metadata.jsonl not read",
    ),
    "rows without a label in class folders": Case(
        {
            **CHAIRS,
            "metadata.jsonl": rows(*({"file_name": name, "score": 1} for name in CHAIRS)),
        },
        "2 classes, chair and sofa; column score of metadata.jsonl not read",
        TWO,
    ),
    "captions in class folders": Case(
        {
            **several("chair/{}.png", 15),
            **several("sofa/{}.png", 15, 20),
            "metadata.jsonl": rows(
                *(
                    {"file_name": f"{name}/{k}.png", "text": f"{name} no. {k}"}
                    for name in ("chair", "sofa")
                    for k in range(15)
                )
            ),
        },
        "2 classes, chair and sofa; the text of metadata.jsonl are captions, not classes",
        {"chair": 15, "sofa": 15},
    ),
    "a table in each split": Case(
        {
            **inside("train", FLAT),
            **inside("test", FLAT, 50),
            "train/metadata.jsonl": rows({"file_name": "0.png", "label": "a"}),
            "test/metadata.csv": "file_name,label\n1.png,b\n",
        },
        "2 classes, a and b, by label in test/metadata.csv and train/metadata.jsonl, over train/ "
        "and test/",
        {"a": 1, "b": 1},
    ),
    "a table of another name": Case(
        {**FLAT, "train.csv": "id,label\n0,a\n"},
        "3 photos without classes; train.csv not read",
    ),
    "some rows have a label": Case(
        {
            **FLAT,
            "metadata.jsonl": rows({"file_name": "0.png"}, {"file_name": "1.png", "label": "a"}),
        },
        "1 class, a, by label in metadata.jsonl",
        {"a": 1},
        asks="metadata.jsonl:2 some rows have a label",
        plain="2 photos without classes",
    ),
}
