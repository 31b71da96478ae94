"""Photos as they come: which sets are understood, what colours become, how fast looking is.

    python -m benchmarks photos [--clip-art /usr/share/openclipart/png] [--rounds 7]

Times are of processor time, in one process, as ratios to Pillow's own decoding of the same file,
taken in turns; the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
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

# the sets and the formulas that the tests hold the package to
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from colours import SPACES, delta_e, levels_in, linear, profile_of
from photo_folders import CASES, write

WANT = Want(32, (255, 255, 255), 16)
RED = (200, 40, 45)
LARGE: dict[str, dict[str, Any]] = {  # options of Pillow's
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


def sets(folder: Path) -> None:
    """Each case's line, and whether it is the one that is wanted."""
    print("\n| set | what is said | as wanted |\n|---|---|---|")
    right = Counter[bool]()
    for number, (name, case) in enumerate(CASES.items()):
        about = understand(write(folder / str(number) / "photos", case.files))
        said, asked = about.sentence(), about.question
        classes = dict(Counter(photo.label for photo in about.photos if photo.label))
        fits = said == case.said and (
            case.asks in str(asked) if case.asks else asked is None and classes == case.classes
        )
        right[fits] += 1
        shown = f"asked: {asked.message}" if asked else said
        print(f"| {name} | {shown} | {'yes' if fits else 'NO'} |")
    print(f"\n{right[True]} of {len(CASES)} sets are understood or asked about; goal: all")


def colours(folder: Path) -> None:
    print("\n| a red patch in | dE76 | goal | as numbers of sRGB |\n|---|---|---|---|")
    red, path = np.array(RED), folder / "patch.png"
    for space in SPACES:
        levels = levels_in(space, RED)
        Image.new("RGB", (40, 40), levels).save(path, icc_profile=profile_of(space))
        _show_patch(space, path, red, np.array(levels))
    light = tuple(int(v) for v in np.rint(255 * linear(red)))
    out = io.BytesIO()
    Image.new("RGB", (40, 40), light).save(out, "png")
    data, gamma = out.getvalue(), b"\x00\x00\x00\x04gAMA\x00\x01\x86\xa0\x31\xe8\x96\x5f"
    path.write_bytes(data[:33] + gamma + data[33:])
    _show_patch("linear gAMA", path, red, np.array(light))


def _show_patch(name: str, path: Path, red: np.ndarray, levels: np.ndarray) -> None:
    found = np.frombuffer(decode(str(path), WANT).pixels, np.uint8).reshape(-1, 3)
    print(f"| {name} | {delta_e(found, red):.2f} | 1.5 | {delta_e(levels, red):.1f} |")


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth shapes, texture and sensor noise."""
    rng = np.random.default_rng(seed)
    out = np.full((height, width, 3), 128, np.float32)
    for cells, strength in ((8, 60), (32, 30), (128, 15), (512, 8)):
        size = max(2, cells * height // width), cells
        for channel in range(3):
            rough = Image.fromarray(rng.normal(0, strength, size).astype(np.float32))
            out[..., channel] += np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC))
    out += rng.normal(0, 2, (height, width, 1)).astype(np.float32)
    return Image.fromarray(out.clip(0, 255).astype(np.uint8))


def speeds(folder: Path, rounds: int) -> None:
    image, png, jpeg = photo(4000, 3000), folder / "rgba.png", folder / "a.jpg"
    image.save(jpeg, quality=85)
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 900, 3000))
    image.putalpha(alpha)
    image.save(png)
    print("\n| 12 MP | x Pillow's own decoding | goal | a second a core | Pillow's own |")
    print("|---|---|---|---|---|")
    for name, path, goal in (("RGBA PNG", png, "1.3 x"), ("JPEG, draft", jpeg, "60 a second")):
        ours, theirs = _in_turns(path, rounds)
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        print(
            f"| {name}, {path.stat().st_size / 1e6:.1f} MB | {ratio:.2f} | {goal} | "
            f"{1 / statistics.median(ours):.1f} | {1 / statistics.median(theirs):.1f} |"
        )
    tile, large = photo(3000, 2250, 1), Image.new("RGB", (12_000, 9_000))
    for k in range(16):
        large.paste(tile, (k % 4 * 3000, k // 4 * 2250))
    print("\n| 108 MP JPEG | s of processor time | peak of the process, MiB | goal |")
    print("|---|---|---|---|")
    for name, options in LARGE.items():
        large.save(jpeg, quality=85, **options)
        command = [sys.executable, "-c", MEASURED, str(jpeg)]
        runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in "abc"]
        seconds, peak = sorted(tuple(map(float, run.stdout.split())) for run in runs)[1]
        goal = "none: held whole" if options else "0.5 s, 400 MB"
        size = jpeg.stat().st_size / 1e6
        print(f"| {name}, {size:.1f} MB | {seconds:.2f} | {peak:.0f} | {goal} |", flush=True)


def _in_turns(path: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Processor seconds of ours and of Pillow's, one after the other."""
    ours, theirs = list[float](), list[float]()
    for _ in range(rounds):
        for times, work in ((theirs, _pillow), (ours, _own)):
            begin = time.process_time()
            work(path)
            times.append(time.process_time() - begin)
    return ours, theirs


def _own(path: Path) -> None:
    decode(str(path), WANT)


def _pillow(path: Path) -> None:
    image = Image.open(io.BytesIO(path.read_bytes()))
    image.draft(None, (128, 128))
    image.load()


def refusals(folder: Path) -> None:
    """What cannot be is refused before a photo is decoded."""
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
    print("\n| refused | photos decoded before | s | code |\n|---|---|---|---|")
    for name, call in cases.items():
        decoded: list[object] = []
        begin, code = time.monotonic(), "NOT REFUSED"
        with patch.object(Pool, "map", lambda _, places, d=decoded: d.extend(places) or []):
            try:
                call()
            except EdgegenError as error:
                code = error.code
        print(f"| {name} | {len(decoded)} | {time.monotonic() - begin:.1f} | {code} |")


def clip_art(folder: Path) -> None:
    if not folder.is_dir():
        print(f"\n{folder} is not there: apt-get install openclipart-png")
        return
    begin = time.monotonic()
    about = understand(folder, follow_links=True)
    looked = time.monotonic() - begin
    seen = survey(about, 32, PhotoReading(follow_links=True))
    took, codes = time.monotonic() - begin, Counter(bad.code for bad in seen.report.bad)
    print(f"\nclip art, --follow-links: {about.sentence()}")
    print(
        f"{seen.report.found} found, {seen.report.kept} used, {len(seen.report.bad)} bad "
        f"({', '.join(f'{n} {code}' for code, n in codes.most_common())}), "
        f"{len(seen.report.warnings.get('W-DATA-DUP', ()))} left out as duplicates; "
        f"{'refused: ' + seen.refusal.code if seen.refusal else 'read'}; {looked:.1f} s to "
        f"understand, {took:.1f} s in all ({seen.report.found / took:.0f} a second)"
    )
    print(f"without --follow-links: {understand(folder).sentence()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clip-art", type=Path, default=Path("/usr/share/openclipart/png"))
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sets(folder / "sets")
        colours(folder)
        speeds(folder, given.rounds)
        refusals(folder)
    clip_art(given.clip_art)


if __name__ == "__main__":
    main()
