"""Public reports of photos and adapters that other trainers misread or refused, each replayed with
small inputs as a user meets it: at the command line.
"""

from __future__ import annotations

import io
import json
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_photos import chunk, encoded, picture
from colours import levels_in, linear, profile_of
from looking import Site
from misfit_adapters import config, said_of, tensors
from photo_folders import Files, inside, photo, rows, several, write, zipped
from PIL import Image

from edgegen.cli.main import run

RED = (200, 40, 45)
TURN = Image.Transpose
STORED = {  # how pixels lie in a file that says the orientation
    1: None,
    2: TURN.FLIP_LEFT_RIGHT,
    3: TURN.ROTATE_180,
    4: TURN.FLIP_TOP_BOTTOM,
    5: TURN.TRANSPOSE,
    6: TURN.ROTATE_90,
    7: TURN.TRANSVERSE,
    8: TURN.ROTATE_270,
}


Replay = Callable[[Site], None]
REPORTS: dict[str, Replay] = {}
SLOW: set[str] = set()


def report(name: str, slow: bool = False) -> Callable[[Replay], Replay]:
    def noted(replay: Replay) -> Replay:
        REPORTS[name] = replay
        SLOW.update({name} if slow else set())
        return replay

    return noted


def two(chairs: int = 12, sofas: int = 12) -> dict[str, int]:
    return several("chair/{}.png", chairs) | several("sofa/{}.png", sofas, 400)


# folders


@report("datasets#8188")
def splits_are_no_classes(site: Site) -> None:
    files = {**inside("train", two(4, 4)), **inside("test", two(2, 2), 200)}
    seen = site.look(site.folder(files))
    assert seen.code == 0 and seen.photos["classes"] == {"chair": 6, "sofa": 6}
    assert seen.sentence == "2 classes, chair and sofa, over train/ and test/"


@report("fastai#1552")
def a_split_without_classes_is_asked_about(site: Site) -> None:
    files = {**inside("train", two()), **inside("valid", two(2, 2), 200)}
    root = site.folder({**files, **several("test/{}.png", 3, 300)})
    seen = site.look(root)
    assert seen.code == 4 and "3 images in test/ have no class beside folders" in seen.said
    assert "--no-classes" in seen.said and f"name {root / 'train'} to take that" in seen.said
    assert site.look(root / "train").photos["classes"] == {"chair": 12, "sofa": 12}
    assert site.look(root, "--no-classes").photos["kept"] == 31


@report("NVlabs/stylegan2-ada-pytorch#18")
def chunks_are_no_classes(site: Site) -> None:
    names = [f"0000{k // 5}/img0000000{k}.png" for k in range(9)]
    labels = json.dumps({"labels": [[name, k % 2] for k, name in enumerate(names)]})
    files: Files = {**{name: k for k, name in enumerate(names)}, "dataset.json": labels}
    for data in (site.folder(files), zipped(site.root / "set.zip", files)):
        seen = site.look(data)
        assert seen.code == 0 and seen.photos["classes"] == {"0": 5, "1": 4}
        assert seen.sentence == "2 classes, 0 and 1, by dataset.json"
    plain = zipped(site.root / "plain.zip", {**files, "dataset.json": '{"labels": null}'})
    assert site.look(plain).photos["classes"] == {} and site.look(plain).photos["kept"] == 9


@report("photoprism#555")
def a_network_drive_leaves_what_is_no_photo(site: Site) -> None:
    thumbnails = {
        **several("chair/@eaDir/{}.png/SYNOPHOTO_THUMB_M.jpg", 12, 100),
        **several("sofa/@eaDir/{}.png/SYNOPHOTO_THUMB_M.jpg", 14, 120),
    }
    seen = site.look(site.folder({**two(), **thumbnails, **several("#recycle/{}.jpg", 4, 140)}))
    assert seen.code == 0 and seen.photos["classes"] == {"chair": 12, "sofa": 12}
    assert seen.photos["found"] == seen.photos["kept"] == 24
    assert seen.sentence == (
        "2 classes, chair and sofa; 26 thumbnails and 4 deleted photos of a network drive left out"
    )


@report("datasets#6853")
def a_farm_of_links_is_followed_when_it_is_asked(site: Site) -> None:
    root = site.folder(several("store/{}.png", 40))
    (root / "chair").mkdir()
    for k in range(40):
        (root / "chair" / f"{k}.png").symlink_to(f"../store/{k}.png")
    (site.root / "secret.png").write_bytes(photo(99))
    (root / "chair" / "out.png").symlink_to(site.root / "secret.png")
    seen = site.look(root)
    assert seen.code == 4 and seen.document["code"] == "E-DATA-BAD"
    assert "follow the links, --follow-links" in seen.said and len(seen.photos["bad"]) == 41
    seen = site.look(root, "--follow-links")
    assert seen.code == 0 and seen.photos["kept"] == 40 and len(seen.photos["duplicates"]) == 40
    assert [bad["name"] for bad in seen.photos["bad"]] == ["chair/out.png"]


# names and formats


@report("flymyai-lora-trainer#72")
def suffixes_of_browsers_are_photos(site: Site) -> None:
    names = ("a.jfif", "b.jpe", "c.jpg_large", "d.JPEG")
    seen = site.look(site.folder({name: photo(k, "JPEG") for k, name in enumerate(names)}))
    assert seen.code == 0 and seen.photos["kept"] == 4 and seen.photos["warnings"] == {}


@report("supervisely#839")
def names_of_downloads_are_photos(site: Site) -> None:
    files = {"photo.jpg?w=800": photo(1, "JPEG"), "none": photo(2, "WEBP"), "x.dat": photo(3)}
    seen = site.look(site.folder({**files, "notes": "no photo"}))
    assert seen.code == 0 and seen.photos["kept"] == 3
    assert seen.photos["warnings"] == {"W-DATA-IGNORED": ["notes"]}


@report("kohya_ss#1600")
def heic_and_avif_among_others_are_read(site: Site) -> None:
    files: dict[str, bytes | str | int] = {**several("{}.png", 22)}
    files["x.avif"] = encoded("AVIF", picture(30, 96, 64))
    assert site.look(site.folder(files)).photos["kept"] == 23
    if find_spec("pillow_heif") is None:
        head = b"\0\0\0\x18ftypheic" + bytes(12)
        seen = site.look(site.folder({**files, "a.heic": head, "b.heic": head}, "heic"))
        assert seen.code == 4 and "pip install 'edgegen[heic]'" in seen.said
        return
    import pillow_heif

    pillow_heif.register_heif_opener()
    for k in range(2):
        files[f"IMG_{k}.HEIC"] = encoded("HEIF", picture(40 + k, 96, 64))
    seen = site.look(site.folder(files, "heic"))
    assert seen.code == 0 and (seen.photos["kept"], seen.photos["bad"]) == (25, [])


# colours


def halves(colour: Iterable[int], mode: str = "RGB") -> Image.Image:
    """One colour beside black."""
    image = Image.new(mode, (40, 40))
    image.paste(tuple(colour), (0, 0, 20, 40))
    return image


@report("Deep-Photo-Enhancer#39")
def profiles_are_applied(site: Site) -> None:
    for space in ("Adobe RGB", "Display P3", "ProPhoto"):
        image, profile = halves(levels_in(space, RED)), profile_of(space)
        root = site.folder({"a.png": encoded("PNG", image, icc_profile=profile)}, space)
        seen = site.look(root)
        assert seen.code == 0 and seen.drawn(RED) > 1000, space
        write(root, {"a.png": encoded("PNG", image)})
        assert site.look(root).drawn(RED) == 0, "the test itself"


@report("chaiNNer#3296")
def a_linear_png_is_no_night(site: Site) -> None:
    light = tuple(int(v) for v in np.rint(255 * linear(np.array(RED))))
    data = encoded("PNG", halves(light))
    at = data.index(b"IDAT") - 4
    data = data[:at] + chunk(b"gAMA", struct.pack(">I", 100_000)) + data[at:]
    seen = site.look(site.folder({"a.png": data}))
    assert seen.code == 0 and seen.drawn(RED) > 1000


@report("Pillow#6563")
def print_colours_are_right_without_adobe_s_marker(site: Site) -> None:
    image = halves(RED).convert("CMYK")
    jpeg = encoded("JPEG", image, quality=100)
    at = jpeg.index(b"\xff\xee")
    plain = jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]
    assert b"Adobe" in jpeg and b"Adobe" not in plain
    for name, data in (("a.jpg", jpeg), ("b.jpg", plain), ("c.tif", encoded("TIFF", image))):
        seen = site.look(site.folder({name: data}, name[0]))
        assert seen.code == 0 and seen.photos["counts"] == {"W-IMG-CMYK": 1}
        assert seen.drawn(RED) > 1000, name


def turned(kind: str, number: int) -> bytes:
    """A picture that is upright once its orientation is minded."""
    image, turn = picture(7, 60, 40), STORED[number]
    image = image if turn is None else image.transpose(turn)
    exif = Image.Exif()
    exif[274] = number
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"exif": exif, "quality": 98, "subsampling": 0},
        "PNG": {"exif": exif},
        "WEBP": {"exif": exif, "lossless": True},
        "TIFF": {"tiffinfo": {274: number}},
        "MPO": {"exif": exif, "save_all": True, "append_images": [picture(8, 60, 40)]},
    }
    return encoded(kind, image, **options[kind])


def by_xmp(number: int) -> bytes:
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{number}"/>'
    data = encoded("PNG", picture(7, 60, 40).transpose(TURN.ROTATE_90))
    at = data.index(b"IDAT") - 4
    return data[:at] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp.encode()) + data[at:]


def upright(site: Site, files: dict[str, bytes], turns: int) -> None:
    """All are the one picture, so that one is left of those that are stored without loss."""
    seen = site.look(site.folder(dict(files)))
    assert seen.code == 4 and seen.document["code"] == "E-DATA-CONSTANT"
    assert seen.photos["counts"]["W-IMG-TURNED"] == turns
    assert seen.photos["counts"]["W-DATA-DUP"] == len(files) - 1
    assert set(seen.photos["sizes"]["ratio"].values()) == {1.5}


@report("sd-scripts#1316")
def photos_are_turned_as_exif_says(site: Site) -> None:
    kinds = ("PNG", "WEBP", "TIFF")
    files = {f"{kind} {n}": turned(kind, n) for kind in kinds for n in STORED}
    upright(site, files, 21)
    lossy = {f"{kind} {n}": turned(kind, n) for kind in ("JPEG", "MPO") for n in STORED}
    seen = site.look(site.folder(dict(lossy), "lossy"))
    assert seen.photos["counts"]["W-IMG-TURNED"] == 14
    left = {name for group in seen.photos["duplicates"] for name in group[1:]}
    assert seen.document["near_copies"] == [sorted(lossy.keys() - left)], "all are nearly one"


@report("musubi-tuner#695")
def photos_are_turned_as_xmp_says(site: Site) -> None:
    upright(site, {"a.png": by_xmp(6), "b.png": turned("PNG", 1), "c.png": turned("PNG", 6)}, 2)


# sizes


@report("LlamaFactory#6300")
def what_a_png_says_beside_its_pixels_is_no_damage(site: Site) -> None:
    data = encoded("PNG", halves(levels_in("ProPhoto", RED)))
    at = data.index(b"IDAT") - 4
    text = chunk(b"tEXt", b"prompt\0" + b"x" * (2 << 20))
    packed = zlib.compress(profile_of("ProPhoto") + bytes(1500 << 10))
    large = chunk(b"iCCP", b"large\0\0" + packed)
    seen = site.look(site.folder({"a.png": data[:at] + text + large + data[at:]}))
    assert seen.code == 0 and seen.photos["bad"] == [] and seen.photos["warnings"] == {}
    assert seen.drawn(RED) > 1000


def large_jpeg(width: int, height: int) -> bytes:
    image = Image.new("L", (width, height), 90)
    image.paste(200, (0, 0, width // 2, height))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


@report("RT-DETR#337", slow=True)
def a_camera_s_102_mp_are_read(site: Site) -> None:
    seen = site.look(site.folder({"a.jpg": large_jpeg(11_656, 8_742)}))
    assert seen.code == 0 and seen.photos["sizes"]["width"]["max"] == 11_656


@report("kohya_ss#2641", slow=True)
def a_phone_s_108_mp_are_read(site: Site) -> None:
    seen = site.look(site.folder({"a.jpg": large_jpeg(12_000, 9_000)}))
    assert seen.code == 0 and seen.photos["sizes"]["width"]["max"] == 12_000


@report("Limnoria#1353", slow=True)
def a_limit_on_memory_is_the_user_s(site: Site) -> None:
    """A hard limit, as a batch system sets it, below what a decoder may take."""
    root, limit = site.folder(several("{}.png", 3)), 3 << 30
    command = [sys.executable, "-m", "edgegen", "photos", "check", str(root)]
    done = subprocess.run(
        [*command, "--contact-sheet", str(site.root / "x.png")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "photos: 3 found, 3 used, 0 bad" in done.stdout


# adapters of other programs


@report("peft#2275", slow=True)
def what_is_no_plain_lora_is_refused_by_name(site: Site) -> None:
    for field, value in (("use_dora", True), ("use_rslora", True), ("rank_pattern", {"a": 2})):
        said = said_of(site, config(**{field: value}))
        assert "E-ADAPTER-CONFIG" in said and f"{field} = {value!r} is not supported" in said
    said = said_of(site, config(target_modules=".*attn.*"))
    assert "E-ADAPTER-CONFIG" in said and "lists of layer names" in said


@report("peft#1979", slow=True)
def keys_and_values_of_no_adapter_are_refused_by_name(site: Site) -> None:
    def cut(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:-40])

    def pickled(folder: Path) -> None:
        (folder / "adapter_model.safetensors").write_bytes(b"\x80\x04.")

    kohya = tensors(lambda all: {f"lora_unet_{k}": v for k, v in all.items()})
    nan = tensors(lambda all: {k: v * float("nan") for k, v in all.items()})
    saved_anew = tensors(lambda all: all)
    for change, words in (
        (kohya, "tensors are of no PEFT adapter, such as lora_unet_"),
        (nan, "values are NaN or infinite"),
        (cut, "not a safetensors file"),
        (pickled, "edgegen does not read pickle files"),
        (saved_anew, "this adapter was trained on weights it does not name"),
    ):
        assert words in said_of(site, change)


# what the review names beside its table


@report("mixed folders")
def no_classes_takes_mixed_folders(site: Site) -> None:
    root = site.folder({**two(), "cover.png": 90})
    seen = site.look(root)
    assert seen.code == 4 and seen.document["code"] == "E-DATA-MIXED"
    assert "--no-classes" in seen.said
    seen = site.look(root, "--no-classes")
    assert seen.code == 0 and seen.sentence == "25 photos without classes"
    assert (seen.photos["kept"], seen.photos["classes"]) == (25, {})


@report("115 beside 5")
def a_small_class_stays(site: Site) -> None:
    seen = site.look(site.folder(two(115, 5)))
    assert seen.code == 0 and seen.photos["classes"] == {"chair": 115, "sofa": 5}
    small = seen.document["fine_tuning"]["small_classes"]
    assert list(small) == ["sofa"] and 1 <= small["sofa"] <= 5


@report("a column that nobody knows")
def a_column_is_named(site: Site) -> None:
    names = [{"file_name": f"{k}.png", "kind": "ab"[k % 2]} for k in range(9)]
    seen = site.look(site.folder({**several("{}.png", 9), "metadata.jsonl": rows(*names)}))
    assert seen.code == 0 and seen.photos["warnings"] == {"W-META-COLUMNS": ["kind"]}
    assert seen.sentence == "9 photos without classes; column kind of metadata.jsonl not read"


@report("1,246 rows of bad photos")
def reasons_have_a_row(site: Site) -> None:
    root = site.folder(several("{}.png", 20))
    for k in range(300):
        (root / f"link{k:03d}.png").symlink_to(f"{k % 20}.png")
    assert run(["photos", "check", str(root), "--contact-sheet", str(site.root / "x.png")]) == 4
    shown = site.captured.readouterr()
    assert len(shown.out.splitlines()) < 30 and "and 297 more" in shown.out


@report("a run that is there")
def a_run_is_refused_before_a_photo_is_read(site: Site) -> None:
    root = site.folder({f"{k}.png": "no photo" for k in range(40)})
    write(site.root, {"run/run.json": "{}"})
    assert run(["finetune", "cas-dm", str(site.root / "run"), "--data", str(root)]) == 2
    assert "E-OUT-EXISTS" in site.captured.readouterr().err


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in REPORTS],
)
def test_a_public_report(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    REPORTS[name](Site(tmp_path, capfd))
