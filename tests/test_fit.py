"""Photos that are not square: padded or cropped as was asked, said so in the report, and the same
when a run resumes.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from bad_photos import encoded, picture
from PIL import Image
from shards_of import add, png

from edgegen.cli.main import run
from edgegen.core.files import read_json
from edgegen.training import idx, sizes
from edgegen.training.data import load
from edgegen.training.photos import Want, decode
from edgegen.training.reading import PhotoReading
from edgegen.training.source import open_source

Captured = pytest.CaptureFixture[str]


def uneven(root: Path, count: int = 20) -> Path:
    """Twice as wide as high."""
    root.mkdir()
    for k in range(count):
        picture(k, 64, 32).save(root / f"{k:02d}.png")
    return root


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(("width", "height"), [(60, 32), (32, 60), (61, 32), (800, 500), (40, 40)])
def test_a_crop_is_the_centred_square(tmp_path: Path, kind: str, width: int, height: int) -> None:
    whole = picture(1, width, height)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    expected = whole.crop((left, top, left + side, top + side)).resize(
        (32, 32), Image.Resampling.BICUBIC
    )
    (tmp_path / "a").write_bytes(
        encoded(kind, whole, **({"quality": 98, "subsampling": 0} if kind == "JPEG" else {}))
    )
    found = np.frombuffer(
        decode(str(tmp_path / "a"), Want(32, (0, 0, 0), 16, "crop")).pixels, np.uint8
    ).reshape(32, 32, 3)
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= (8 if kind == "JPEG" else 0)


def test_a_photo_is_turned_before_it_is_cropped(tmp_path: Path) -> None:
    upright, exif = picture(2, 32, 60), Image.Exif()
    exif[274] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    want = Want(32, (0, 0, 0), 16, "crop")
    assert (
        decode(str(tmp_path / "turned.png"), want).pixels
        == decode(str(tmp_path / "upright.png"), want).pixels
    )


def test_the_report_says_which_and_of_what_sizes(tmp_path: Path) -> None:
    data = uneven(tmp_path / "a", 3)
    picture(9, 40, 40).save(data / "square.png")
    padded, report = load(data, 32)
    cropped, other = load(data, 32, PhotoReading(fit="crop"))
    assert (
        report.fit == "pad"
        and other.fit == "crop"
        and report.sizes == other.sizes == {(64, 32): 3, (40, 40): 1}
    )
    assert other.to_json()["fit"] == "crop"
    assert report.to_json()["sizes"] == {
        "width": {"min": 40, "median": 64, "max": 64},
        "height": {"min": 32, "median": 32, "max": 40},
        "ratio": {"min": 1, "median": 2, "max": 2},
    }
    assert (padded.pixels[:3, :8] == 255).all() and not (cropped.pixels[:3, :8] == 255).all()
    assert (
        padded.pixels[3] == cropped.pixels[3]
    ).all() and padded.fingerprint != cropped.fingerprint
    with pytest.raises(Exception, match="fit='stretch' be pad or crop"):
        load(data, 32, PhotoReading(fit="stretch"))  # type: ignore[arg-type]


def test_what_a_square_costs() -> None:
    """A quarter of the photo of 40 x 30 is cut away, or a quarter of its square is background."""
    some = {(40, 30): 1, (30, 60): 1, (64, 64): 5}
    assert sizes.shapes(some) == {
        "wide": 1,
        "square": 5,
        "tall": 1,
        "mean_cost": 0.375,
        "max_cost": 0.5,
    }
    assert sizes.shapes({(8, 8): 2})["max_cost"] == 0 and sizes.spread({}) == {}
    assert sizes.smaller(some, 50, "pad") == 1 and sizes.smaller(some, 50, "crop") == 2


def test_idx_pictures_are_cropped_too() -> None:
    wide = np.arange(2 * 8 * 12, dtype=np.uint8).reshape(2, 8, 12)
    assert (idx.to_square(wide, 8, crop=True)[..., 0] == wide[:, :, 2:10]).all()
    assert (idx.to_square(wide, 12)[:, 2:10, :, 1] == wide).all()


def test_shards_are_cropped_and_known_by_it(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as made:
        for k in range(10):
            add(made, f"{k}.png", encoded("PNG", picture(k, 64, 32)) if k else png(0))
    seen = {}
    for fit in ("pad", "crop"):
        with open_source(tmp_path / "a.tar", 16, PhotoReading(fit=fit)) as (source, report):
            seen[fit] = source.fingerprint, source.read(np.arange(10))[0]
            assert report().fit == fit
    assert seen["pad"][0] != seen["crop"][0], (
        "the fingerprint of a stream says what becomes of a photo"
    )
    assert (seen["pad"][1][1:, :4] == 255).all() and not (seen["crop"][1][1:, :4] == 255).all()


@pytest.mark.slow
def test_a_resumed_run_is_held_to_the_same_fit(tmp_path: Path, capfd: Captured) -> None:
    """And to the same background; neither has to be said again."""
    data, out = uneven(tmp_path / "photos"), tmp_path / "run"
    train = ["train", "cas-dm", str(out), "--data", str(data), "--images", "32", "--threads", "1"]
    assert run([*train, "--recipe", "tiny", "--fit", "crop", "--background", "navy", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["photos"]["fit"] == "crop"
    about = read_json(out / "run.json")["data"]
    assert (about["fit"], about["background"]) == ("crop", "#000080")
    assert run([*train, "--resume"]) == 0
    for flags, named in (
        (["--fit", "pad"], "data.fit"),
        (["--background", "white"], "data.background"),
    ):
        assert run([*train, "--resume", *flags]) == 2
        assert (
            f"error[E-RESUME-MISMATCH] the run was started with another {named}"
            in capfd.readouterr().err
        )
    for flags, named in (
        (["--fit", "stretch"], "--fit must be pad or crop, got 'stretch'"),
        (["--background", "nocolour"], "background 'nocolour' is not a colour"),
    ):
        assert run([*train, "--resume", *flags]) == 2
        assert named in capfd.readouterr().err
