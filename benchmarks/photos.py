"""Photos as they come are tried: which sets are understood, what colours become, how fast looking
is, and what is refused before a photo is decoded.

    python -m benchmarks photos [--clip-art /usr/share/openclipart/png] [--rounds 7]

Times are of processor time, in one process, as ratios to Pillow's own decoding of the same file,
taken in turns; the median of the rounds counts.
"""

from __future__ import annotations

import io
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from _measure import in_turns, median, said_by
from _result import Part, Row, arguments_of, followed, report
from PIL import Image

from edgegen.errors import EdgegenError
from edgegen.training.data import survey
from edgegen.training.layout.understand import understand
from edgegen.training.photos import Want, decode
from edgegen.training.pool import Pool
from edgegen.training.reading import PhotoReading
from edgegen.workflows.finetune.adapt import finetune
from edgegen.workflows.finetune.settings import FinetuneSettings
from edgegen.workflows.photos import PhotosSettings, check_photos
from edgegen.workflows.train import TrainSettings, train

# the sets and formulas that the tests use
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from colours import SPACES, delta_e, levels_in, linear, profile_of
from photo_folders import CASES, write

WANT = Want(32, (255, 255, 255), 16)
RED = (200, 40, 45)
LARGE: dict[str, dict[str, Any]] = {  # options of Pillow's writer
    "baseline": {},
    "progressive, 4:2:0": {"progressive": True},
    "progressive, 4:4:4": {"progressive": True, "subsampling": 0},
}
MEASURED = """
import sys, time
from edgegen.machine.resident import peak_bytes
from edgegen.training.photos import Want, decode
from PIL import Image
Image.MAX_IMAGE_PIXELS = None
begin = time.process_time()
decode(sys.argv[1], Want(32, (255, 255, 255), 16))
took = time.process_time() - begin
print(took, peak_bytes() / 2**20)
"""


def sets(folder: Path) -> Iterator[Row]:
    """Yield a row for each case, with its line and whether that is the wanted one; the
    goal is all.
    """
    for number, (name, case) in enumerate(CASES.items()):
        about = understand(write(folder / str(number) / "photos", case.files))
        said, asked = about.sentence(), about.question
        classes = dict(Counter(photo.label for photo in about.photos if photo.label))
        fits = said == case.said and (
            case.asks in str(asked) if case.asks else asked is None and classes == case.classes
        )
        shown = f"asked: {asked.message}" if asked else said
        yield {"set": name, "what is said": shown, "as wanted": fits}


def colours(folder: Path) -> Iterator[Row]:
    """Yield the distance of a red patch in each colour space; the last column is the distance if
    its numbers are taken as sRGB.
    """
    red, path = np.array(RED), folder / "patch.png"
    for space in SPACES:
        levels = levels_in(space, RED)
        Image.new("RGB", (40, 40), levels).save(path, icc_profile=profile_of(space))
        yield _patch(space, path, red, np.array(levels))
    light = tuple(int(v) for v in np.rint(255 * linear(red)))
    out = io.BytesIO()
    Image.new("RGB", (40, 40), light).save(out, "png")
    data, gamma = out.getvalue(), b"\x00\x00\x00\x04gAMA\x00\x01\x86\xa0\x31\xe8\x96\x5f"
    path.write_bytes(data[:33] + gamma + data[33:])
    yield _patch("linear gAMA", path, red, np.array(light))


def _patch(name: str, path: Path, red: np.ndarray, levels: np.ndarray) -> Row:
    found = np.frombuffer(decode(str(path), WANT).pixels, np.uint8).reshape(-1, 3)
    return {
        "a red patch in": name,
        "dE76": float(delta_e(found, red)),
        "goal": 1.5,
        "as numbers of sRGB": float(delta_e(levels, red)),
    }


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Draw smooth shapes, texture and sensor noise."""
    rng = np.random.default_rng(seed)
    out = np.full((height, width, 3), 128, np.float32)
    for cells, strength in ((8, 60), (32, 30), (128, 15), (512, 8)):
        size = max(2, cells * height // width), cells
        for channel in range(3):
            rough = Image.fromarray(rng.normal(0, strength, size).astype(np.float32))
            out[..., channel] += np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC))
    out += rng.normal(0, 2, (height, width, 1)).astype(np.float32)
    return Image.fromarray(out.clip(0, 255).astype(np.uint8))


def speeds(folder: Path, rounds: int) -> Iterator[Row]:
    """Measure photos of 12 megapixels, relative to Pillow."""
    image, png, jpeg = photo(4000, 3000), folder / "rgba.png", folder / "a.jpg"
    image.save(jpeg, quality=85)
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 900, 3000))
    image.putalpha(alpha)
    image.save(png)
    for name, path, goal in (("RGBA PNG", png, "1.3 x"), ("JPEG, draft", jpeg, "60 a second")):
        calls = {"Pillow": partial(_pillow, path), "edgegen": partial(_own, path)}
        spent = in_turns(calls, rounds)
        pairs = zip(spent["edgegen"], spent["Pillow"], strict=True)
        yield {
            "12 MP": name,
            "MB": path.stat().st_size / 1e6,
            "x Pillow's own decoding": statistics.median(a.cpu / b.cpu for a, b in pairs),
            "goal": goal,
            "a second a core": 1 / median(spent["edgegen"]).cpu,
            "Pillow's own": 1 / median(spent["Pillow"]).cpu,
        }


def large(folder: Path) -> Iterator[Row]:
    """Measure photos of 108 megapixels, each in a process of its own; the middle one of three times
    counts.
    """
    tile, image, jpeg = photo(3000, 2250, 1), Image.new("RGB", (12_000, 9_000)), folder / "b.jpg"
    for k in range(16):
        image.paste(tile, (k % 4 * 3000, k // 4 * 2250))
    for name, options in LARGE.items():
        image.save(jpeg, quality=85, **options)
        runs = [said_by("-c", MEASURED, str(jpeg)).split() for _ in range(3)]
        seconds, peak = sorted(tuple(map(float, run)) for run in runs)[1]
        yield {
            "108 MP JPEG": name,
            "MB": jpeg.stat().st_size / 1e6,
            "s of processor time": seconds,
            "peak of the process, MiB": peak,
            "goal": "none: held whole" if options else "0.5 s, 400 MB",
        }


def _own(path: Path, _: int) -> None:
    decode(str(path), WANT)


def _pillow(path: Path, _: int) -> None:
    image = Image.open(io.BytesIO(path.read_bytes()))
    image.draft(None, (128, 128))
    image.load()


def refusals(folder: Path) -> Iterator[Row]:
    """Measure that impossible requests are refused before a photo is decoded."""
    data = write(folder / "refusals", {f"{k}.png": k for k in range(40)})
    (folder / "run").mkdir()
    (folder / "run" / "run.json").write_text("{}")
    new = folder / "new"
    cases: dict[str, Callable[[], Any]] = {
        "a run is there": lambda: finetune("cas-dm", folder / "run", data),
        "a run is there (train)": lambda: train("cas-dm", folder / "run", data),
        "--time soon": lambda: finetune("cas-dm", new, data, FinetuneSettings(time="soon")),
        "--held-out 2": lambda: finetune("cas-dm", new, data, FinetuneSettings(held_out=2.0)),
        "--recipe none": lambda: train("cas-dm", new, data, TrainSettings(recipe="none")),
        "--only nothing": lambda: train("cas-dm", new, data, TrainSettings(only="nothing")),
        "a sheet among the photos": lambda: check_photos(
            data, PhotosSettings(contact_sheet=data / "sheet.png")
        ),
    }
    for name, call in cases.items():
        decoded: list[object] = []
        begin, code = time.monotonic(), "NOT REFUSED"
        with patch.object(Pool, "map", lambda _, places, d=decoded: d.extend(places) or []):
            try:
                call()
            except EdgegenError as error:
                code = error.code
        yield {
            "refused": name,
            "photos decoded before": len(decoded),
            "s": time.monotonic() - begin,
            "code": code,
        }


def clip_art(folder: Path) -> Row:
    """Measure a folder of many thousand links, as it is read with --follow-links."""
    begin = time.monotonic()
    about = understand(folder, follow_links=True)
    looked = time.monotonic() - begin
    seen = survey(about, 32, PhotoReading(follow_links=True))
    took, codes = time.monotonic() - begin, Counter(bad.code for bad in seen.report.bad)
    return {
        "with --follow-links": about.sentence(),
        "found": seen.report.found,
        "used": seen.report.kept,
        "bad": len(seen.report.bad),
        "why": ", ".join(f"{n} {code}" for code, n in codes.most_common()),
        "duplicates left out": len(seen.report.warnings.get("W-DATA-DUP", ())),
        "refused": seen.refusal.code if seen.refusal else None,
        "s to understand": looked,
        "s in all": took,
        "a second": seen.report.found / took,
        "without --follow-links": understand(folder).sentence(),
    }


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--clip-art", type=Path, default=Path("/usr/share/openclipart/png"))
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        parts = {
            "sets": sets(folder / "sets"),
            "colours": colours(folder),
            "speeds": speeds(folder, given.rounds),
            "large": large(folder),
            "refusals": refusals(folder),
        }
        for name, rows in parts.items():
            part = Part(followed(rows), "photos are drawn from 0 on", 1, {"rounds": given.rounds})
            report(given.json, "photos", name, part)
    if given.clip_art.is_dir():
        part = Part([clip_art(given.clip_art)], "none: a folder of pictures")
        report(given.json, "photos", "clip art", part)
    else:
        print(f"\n{given.clip_art} is not there: apt-get install openclipart-png")


if __name__ == "__main__":
    main()
