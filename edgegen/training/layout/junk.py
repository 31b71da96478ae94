"""Tables of folder and file names that network drives, systems, cameras, shops, galleries and
trainers leave among photos, and that are not part of the set.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Owner(NamedTuple):
    """What a file is, in the singular, and to what it belongs."""

    what: str
    whose: str


DRIVE, WINDOWS, MACOS = "of a network drive", "of a Windows drive", "of macOS"
GALLERY, TRAINER, SHOP = "of a gallery", "of another trainer", "of a shop system"
# by a folder's name in lower case
FOLDERS: dict[str, Owner] = {
    "@eadir": Owner("thumbnail", DRIVE),
    ".@__thumb": Owner("thumbnail", DRIVE),
    "#recycle": Owner("deleted photo", DRIVE),
    "@recycle": Owner("deleted photo", DRIVE),
    "network trash folder": Owner("deleted photo", DRIVE),
    "#snapshot": Owner("older version", DRIVE),
    "@recently-snapshot": Owner("older version", DRIVE),
    "@tmp": Owner("temporary photo", DRIVE),
    "$recycle.bin": Owner("deleted photo", WINDOWS),
    "recycler": Owner("deleted photo", WINDOWS),
    "system volume information": Owner("system file", WINDOWS),
    "__macosx": Owner("resource fork", MACOS),
    ".trashes": Owner("deleted photo", MACOS),
    "lost+found": Owner("recovered file", "of a file system"),
    "thumbs": Owner("thumbnail", GALLERY),
    "thumbnails": Owner("thumbnail", GALLERY),
    "_thumbs": Owner("thumbnail", GALLERY),
    ".thumbs": Owner("thumbnail", GALLERY),
    ".thumbnails": Owner("thumbnail", GALLERY),
    ".picasaoriginals": Owner("older version", GALLERY),
    "_latent_cache": Owner("cached picture", TRAINER),
    "_t_e_cache": Owner("cached picture", TRAINER),
    "_controls": Owner("control picture", TRAINER),
}
HIDDEN = Owner("hidden photo", "")
# by a file's name in lower case
FILES: tuple[tuple[re.Pattern[str], Owner], ...] = (
    (re.compile(r"syno(photo|file)_thumb.*"), Owner("thumbnail", DRIVE)),
    (re.compile(r".*-masklabel\.\w+"), Owner("mask", TRAINER)),
    (re.compile(r".*-condlabel\.\w+"), Owner("control picture", TRAINER)),
)
# suffixes by which shops and galleries mark smaller copies of a photo in the same folder
SHOP_SIZE = re.compile(
    r"(?P<whole>.+?)(?:-\d{2,5}x\d{2,5}|-scaled|[-_](?:thumb|thumbnail|small|medium|grande)"
    r"|-(?:cart|small|medium|home|large|category|side)_default)",
    re.IGNORECASE,
)
# folders beside a folder of images that hold no photos, but for example masks or annotations
COMPANIONS: dict[str, Owner] = {
    **dict.fromkeys(
        ("mask", "masks", "ground_truth", "groundtruth", "gt", "segmentation", "segmentations"),
        Owner("mask", ""),
    ),
    **dict.fromkeys(("annotations", "annotation", "labels", "label"), Owner("annotation", "")),
    **dict.fromkeys(("depth", "depths", "depth_maps"), Owner("depth map", "")),
    **dict.fromkeys(("segmentationclass", "segmentationobject"), Owner("mask", "")),
    "reg": Owner("regularisation photo", TRAINER),
    "model": Owner("sample", TRAINER),
    "sample": Owner("sample", TRAINER),
    "samples": Owner("sample", TRAINER),
    "log": Owner("sample", TRAINER),
}


def owner_of_folder(name: str) -> Owner | None:
    """Return the owner of everything in a folder of this name; None for a folder of photos."""
    known = FOLDERS.get(name.lower())
    if known is None and name.lower().startswith(".trash"):
        return Owner("deleted photo", "of a desktop")
    return known or (HIDDEN if name.startswith(".") else None)


def owner_of(name: str) -> Owner | None:
    """Return the owner of a file by any of its folders or its own name; None for a photo."""
    *folders, own = name.split("/")
    for folder in folders:
        if owner := owner_of_folder(folder):
            return owner
    lower = own.lower()
    return next((owner for pattern, owner in FILES if pattern.fullmatch(lower)), None)
