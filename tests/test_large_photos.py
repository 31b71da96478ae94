"""How large a photo may be: a setting, named where a photo is larger, and memory that stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bad_photos import bomb, encoded, jpeg_claiming, png_claiming
from looking import Site
from PIL import Image

from edgegen.cli.main import run
from edgegen.errors import UsageError
from edgegen.training.photos import BadPhoto, Want, decode
from edgegen.training.reading import PhotoReading
from edgegen.workflows.photos import PhotosSettings

Captured = pytest.CaptureFixture[str]


@pytest.mark.slow
def test_the_limit_is_a_setting(tmp_path: Path, capfd: Captured) -> None:
    """A drawing of 66 MP, whole, in one bit a pixel."""
    drawing = Image.new("1", (8100, 8100))
    drawing.paste(1, (0, 0, 4000, 8100))
    site = Site(tmp_path, capfd)
    root = site.folder({"a.png": encoded("PNG", drawing, compress_level=0)})
    seen = site.look(root)
    assert seen.code == 4 and [bad["code"] for bad in seen.photos["bad"]] == ["E-IMG-TOO-LARGE"]
    assert seen.photos["bad"][0]["reason"] == (
        "8100x8100 is 66 MP, more than the limit of 64 MP; photos check, train and finetune read "
        "it with --max-megapixels 66"
    )
    seen = site.look(root, "--max-megapixels", "66")
    assert seen.code == 0 and seen.photos["bad"] == [] and seen.drawn((255, 255, 255)) > 1000


def test_it_may_be_lower(tmp_path: Path) -> None:
    Image.new("RGB", (1600, 1000)).save(tmp_path / "a.jpg")
    with pytest.raises(BadPhoto, match="is 2 MP, more than the limit of 1 MP") as caught:
        decode(str(tmp_path / "a.jpg"), PhotoReading(max_megapixels=1).want(32))
    assert "--max-megapixels 2" in caught.value.reason
    decode(str(tmp_path / "a.jpg"), PhotoReading(max_megapixels=2).want(32))


def test_no_setting_lets_a_bomb_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as in a decoder's process
    want = Want(32, (0, 0, 0), 16, max_megapixels=1000)
    for data in (bomb(20_000, 20_000), jpeg_claiming(20_000, 20_000)):
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(BadPhoto, match=r"400 MP in [0-9]+ bytes: a bomb"):
            decode(str(tmp_path / "a"), want)
        with pytest.raises(BadPhoto) as caught:
            decode(str(tmp_path / "a"), Want(32, (0, 0, 0), 16))
        assert "--max-megapixels" not in caught.value.reason, "which would not help"
    (tmp_path / "a").write_bytes(png_claiming(2**31 - 1, 2**31 - 1))
    with pytest.raises(BadPhoto, match=r"more than the limit of 1000 MP$"):
        decode(str(tmp_path / "a"), want)


def test_a_limit_that_nobody_means_is_refused(tmp_path: Path, capfd: Captured) -> None:
    for words in (
        ["photos", "check", str(tmp_path)],
        ["train", "cas-dm", str(tmp_path / "x"), "--data", str(tmp_path)],
        ["finetune", "cas-dm", str(tmp_path / "x"), "--data", str(tmp_path)],
    ):
        for number, said in (("0", "1 or more, got 0"), ("2000", "1000 or less, got 2000")):
            assert run([*words, "--max-megapixels", number]) == 2
            assert f"--max-megapixels must be {said}" in capfd.readouterr().err
    with pytest.raises(UsageError, match="max_megapixels must be positive"):
        PhotoReading(max_megapixels=0)
    assert PhotosSettings(max_megapixels=300).max_megapixels == 300


@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_progressive_jpeg_beyond_memory_says_so(tmp_path: Path, subsampling: int) -> None:
    """Sixteen MP are held in 96 or 48 MB; in a process that may take less they are not damaged."""
    rough = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    image = Image.fromarray(rough).resize((4000, 4000))
    held = 96 if subsampling == 0 else 48
    image.save(tmp_path / "a.jpg", progressive=True, subsampling=subsampling, quality=60)
    image.save(tmp_path / "b.jpg", subsampling=subsampling, quality=60)
    code = (
        "import resource, sys; from edgegen.training.photos import *\n"
        "Image.preinit(); want = Want(32, (0, 0, 0), 16); decode(sys.argv[2], want)\n"
        "taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "for more in map(int, sys.argv[3:]):\n"
        "    most = taken + (more << 20); resource.setrlimit(resource.RLIMIT_AS, (most, -1))\n"
        "    for path in sys.argv[1:3]:\n"
        "        try: decode(path, want); print('read')\n"
        "        except BadPhoto as bad: print(bad)\n"
    )
    paths = [str(tmp_path / name) for name in ("a.jpg", "b.jpg")]
    command = [sys.executable, "-c", code, *paths, str(held - 12), str(held * 2 + 24)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    small, plain, large, _ = done.stdout.splitlines()
    assert small.startswith("E-IMG-TOO-LARGE this progressive JPEG of 4000x4000 is held whole")
    assert f", {held} MB, and " in small and "save it as baseline JPEG" in small
    assert (plain, large) == ("read", "read")
