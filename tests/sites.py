"""A site's photos as files, and fine-tunings on them that several tests share."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from toys import shapes

from edgegen.cli.main import run


def photo_files(folder: Path, size: int = 16) -> Path:
    """Eighty photos in two classes."""
    made = shapes(80, size, seed=3)
    for k, (pixels, label) in enumerate(zip(made.pixels, made.labels, strict=True)):
        place = folder / made.classes[label]
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / f"secret-{k:03}.png")
    return folder


def go(base: Path | str, out: Path, photos: Path, *more: str) -> int:
    """The exit code of twelve steps of `edgegen finetune`."""
    return run(
        [
            "finetune",
            str(base),
            str(out),
            "--data",
            str(photos),
            "--steps",
            "12",
            "--batch",
            "8",
            "--looks",
            "2",
            "--held-out",
            "0.25",
            "--threads",
            "1",
            *more,
        ]
    )
