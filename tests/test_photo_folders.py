"""Folders as they come: each is understood in one line, or the one question that it raises is
asked.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import pytest
from photo_folders import CASES, CHAIRS, FLAT, TWO, Files, inside, photo, several, write, zipped

from edgegen.errors import InputError, TrustError
from edgegen.training.data import load, survey
from edgegen.training.layout import archive, tree
from edgegen.training.layout.description import FolderDescription, counted, joined
from edgegen.training.layout.understand import understand
from edgegen.training.reading import PhotoReading


def counts(about: FolderDescription) -> dict[str, int]:
    return dict(Counter(photo.label for photo in about.photos if photo.label))


@pytest.mark.parametrize("case", CASES)
def test_a_set_is_understood_or_asked_about(case: str, tmp_path: Path) -> None:
    wanted = CASES[case]
    root = write(tmp_path / "photos of ours", wanted.files)
    about = understand(root)
    assert about.sentence() == wanted.said
    if wanted.asks:
        assert about.question is not None and wanted.asks in about.question.message
        assert "--no-classes" in about.question.hint and about.question.exit_code == 4
        with pytest.raises(InputError) as caught:
            load(root, 16)
        assert caught.value.code == about.question.code
    else:
        assert about.question is None and about.bad == ()
        assert counts(about) == wanted.classes
    plain = understand(root, classes=False)
    assert plain.question is None and plain.classes == ()
    assert len(plain.photos) == len(about.photos) or wanted.files.keys() & {"dataset.json"}
    if wanted.plain:
        assert plain.sentence() == wanted.plain
    assert understand(root) == about, "the same files, the same answer"


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40 and len({case.said for case in CASES.values()}) > 30


def test_what_was_left_out_has_names(tmp_path: Path) -> None:
    about = understand(write(tmp_path / "p", CASES["Synology"].files))
    deleted, thumbnails = about.left_out
    assert deleted == ("deleted photo", "of a network drive", ("#recycle/0.jpg", "#recycle/1.jpg"))
    assert len(thumbnails.names) == 6 and about.to_json()["left_out"][1]["what"] == "thumbnail"
    assert json.loads(json.dumps(about.to_json()))["sentence"] == about.sentence()
    photos, report = load(about, 16)
    assert len(photos) == report.found == 5 and photos.classes == ("chair", "sofa")


def test_a_folder_of_thumbnails_costs_no_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network drive keeps a folder for every photo."""
    monkeypatch.setattr(tree, "MAX_FOLDERS", 3)
    files = several("{}.png", 3) | several("@eaDir/{}.png/SYNOPHOTO_THUMB_M.jpg", 8, 20)
    assert len(understand(write(tmp_path / "p", files)).photos) == 3
    with pytest.raises(InputError, match="more than 3 sub-folders"):
        understand(write(tmp_path / "q", several("{}/x.png", 5)))


def test_classes_may_be_ignored_everywhere(tmp_path: Path) -> None:
    root = write(tmp_path / "p", CASES["mixed"].files)
    photos, _ = load(root, 16, PhotoReading(classes=False))
    assert len(photos) == 6 and photos.classes == () and not photos.labels.any()


def test_names_in_a_table_are_found_in_either_form(tmp_path: Path) -> None:
    files: Files = {
        "stu\u0308hle/1.png": 1,
        "metadata.csv": "file_name,label\nst\u00fchle/1.png,a\n",
    }
    about = understand(write(tmp_path / "p", files))
    assert [(photo.name, photo.label) for photo in about.photos] == [("stu\u0308hle/1.png", "a")]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("file_name,label\n0.png,a,b\n", 2, "3 cells under 2 columns"),
        ('file_name,label\n"0.png,a\n', 2, "not CSV"),
        ("file_name,label\n9.png,a\n", 2, "'9.png': no such file"),
        ("file_name,label\n../0.png,a\n", 2, "must be a path inside the folder"),
        ("a,b\n1,2\n", 2, "its columns are a, b"),
        ("file_name,label\n0.png," + "x" * 70_000, 2, "longer than 64 KiB"),
    ],
)
def test_errors_in_a_csv_carry_the_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    root = write(tmp_path / "p", {**FLAT, "metadata.csv": text})
    with pytest.raises(InputError) as caught:
        understand(root)
    assert caught.value.code == "E-META-LINE" and words in caught.value.message
    assert caught.value.message.startswith(f"metadata.csv:{line} ")


def test_two_tables_are_asked_about(tmp_path: Path) -> None:
    table = {"metadata.csv": "file_name\n0.png\n", "metadata.jsonl": '{"file_name": "0.png"}'}
    with pytest.raises(InputError, match=r"metadata\.jsonl and metadata\.csv both say") as caught:
        understand(write(tmp_path / "p", {**FLAT, **table}))
    assert caught.value.code == "E-META-TWO"


def test_labels_of_stylegan_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "p", {**FLAT, "dataset.json": '{"labels": [["0.png", [0.1, 0.9]]]}'})
    with pytest.raises(InputError, match="label 1 is no pair of a name and a class"):
        understand(root)
    assert len(understand(root, classes=False).photos) == 3
    for none in ("5", "true", '"chair"', '{"0.png": 1}'):
        root = write(tmp_path / none[1:4], {**FLAT, "dataset.json": f'{{"labels": {none}}}'})
        with pytest.raises(InputError, match="labels are a list, got"):
            understand(root)
    other = write(tmp_path / "q", {**FLAT, "dataset.json": '{"about": "coco"}'})
    assert understand(other).sentence() == "3 photos without classes; dataset.json not read"


# links


def linked(root: Path) -> Path:
    outside = write(root / "outside", FLAT)
    inside = write(root / "p", several("store/{}.png", 30))
    for name in ("chair", "sofa"):
        (inside / name).mkdir()
    for k in range(30):
        (inside / ("chair" if k % 2 else "sofa") / f"{k}.png").symlink_to(f"../store/{k}.png")
    (inside / "sofa" / "out.png").symlink_to(outside / "0.png")
    (inside / "sofa" / "nowhere.png").symlink_to("gone.png")
    (inside / "sofa" / "circle").symlink_to("..")
    return inside


def test_links_that_stay_inside_are_followed_when_it_is_asked(tmp_path: Path) -> None:
    root = linked(tmp_path)
    with pytest.raises(InputError) as caught:
        load(root, 16)
    assert caught.value.code == "E-DATA-BAD" and "--follow-links" in caught.value.hint
    about = understand(root, follow_links=True)
    assert counts(about) == {"chair": 15, "sofa": 15, "store": 30}
    assert [(bad.name, bad.reason.rpartition(" ")[2]) for bad in about.bad] == [
        ("sofa/nowhere.png", "nowhere"),
        ("sofa/out.png", "folder"),
    ]
    photos, report = load(root, 16, PhotoReading(follow_links=True))
    assert len(photos) == 30 and len(report.bad) == 2 and len(report.duplicates) == 30
    assert "33 symbolic links not followed" in understand(root).sentence()


# archives


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_read_as_the_folder_in_it(tmp_path: Path, method: int) -> None:
    folder = write(tmp_path / "a", CHAIRS)
    path = zipped(tmp_path / "b.zip", {**inside("my photos", CHAIRS), "__MACOSX/._x": "x"}, method)
    about = understand(path)
    assert about.sentence() == "2 classes, chair and sofa, in my photos/" and counts(about) == TWO
    assert (load(path, 16)[0].pixels == load(folder, 16)[0].pixels).all()
    assert load(path, 16)[0].fingerprint == load(folder, 16)[0].fingerprint


def test_a_stylegan_zip(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", CASES["StyleGAN"].files, zipfile.ZIP_STORED)
    assert understand(path).sentence() == CASES["StyleGAN"].said
    assert load(path, 16)[1].classes == {"0": 3, "1": 2}


def test_a_zip_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    cut = zipped(tmp_path / "cut.zip", FLAT)
    cut.write_bytes(cut.read_bytes()[:-30])
    with pytest.raises(InputError, match="not a whole zip archive") as caught:
        understand(cut)
    assert caught.value.code == "E-ZIP"
    moved = zipped(tmp_path / "moved.zip", FLAT)
    moved.write_bytes(moved.read_bytes()[:4] + moved.read_bytes()[5:])
    with pytest.raises(InputError, match="is not where the directory says"):
        understand(moved)
    for name in ("../x.png", "/x.png", "C:/x.png", "a\\x.png"):
        with pytest.raises(TrustError, match="leads out of the archive"):
            understand(_named(tmp_path / "out.zip", name))
    with pytest.raises(TrustError, match="is a link"):
        info = zipfile.ZipInfo("link.png")
        info.external_attr = 0o120777 << 16
        with zipfile.ZipFile(tmp_path / "link.zip", "w") as made:
            made.writestr(info, "/etc/passwd")
        understand(tmp_path / "link.zip")
    with pytest.raises(InputError, match="another way than deflate"):
        understand(zipped(tmp_path / "lzma.zip", FLAT, zipfile.ZIP_LZMA))
    with pytest.raises(InputError, match="is not a folder or a zip archive"):
        understand(write(tmp_path, {"x.zip": "no zip"}) / "x.zip")


def _named(path: Path, name: str) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        info = zipfile.ZipInfo("x")
        info.filename = name
        made.writestr(info, photo(1))
    return path


def test_a_damaged_member_costs_one_photo(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", several("{}.png", 30), zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    place = understand(path).photos[3].span
    assert place is not None
    data[place.offset + 100] ^= 1
    path.write_bytes(data)
    seen = survey(path, 16)
    assert [(bad.name, bad.code) for bad in seen.report.bad] == [("11.png", "E-IMG-CORRUPT")]
    assert "checksum" in seen.report.bad[0].reason and len(seen.photos) == 29


def test_a_member_that_says_too_little_is_no_bomb(tmp_path: Path) -> None:
    """What inflates to more than its directory says is damaged, and is not inflated further."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(bytes(64 << 20)) + packer.flush()
    path = zipped(tmp_path / "a.zip", {**FLAT, "x.png": photo(9)})
    span = next(photo.span for photo in understand(path).photos if photo.name == "x.png")
    assert span is not None
    made = archive._inflated
    with open(path, "rb") as file:
        assert len(made(file, span, 64)) == 64
    (tmp_path / "raw").write_bytes(bomb)
    with open(tmp_path / "raw", "rb") as file:
        assert len(made(file, span._replace(offset=0, size=len(bomb), inflated=10), 64)) == 64


# words


def test_lists_and_numbers_read_well() -> None:
    assert joined(["a"]) == "a" and joined(["a", "b", "c"]) == "a, b and c"
    assert joined(list("abcdefgh")) == "a, b, c, d, e and 3 more"
    assert counted(1, "smaller copy") == "1 smaller copy"
    assert counted(2, "smaller copy") == "2 smaller copies"


def test_names_are_escaped_in_the_line(tmp_path: Path) -> None:
    about = understand(write(tmp_path / "p", {"a\x1b[31m/1.png": 1, "b/2.png": 2}))
    assert "\x1b" not in about.sentence() and "a\\x1b[31m" in about.sentence()


def test_lfs_pointers_are_named_for_what_they_are(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    seen = survey(write(tmp_path / "p", {**several("{}.png", 3), "x.jpg": pointer}), 16)
    assert "git lfs pull" in seen.report.bad[0].reason
