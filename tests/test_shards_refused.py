"""What has no place in a tar shard is refused by name, and nothing is written."""

from __future__ import annotations

import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
from shards_of import add, folder, png, refused, shard

from edgegen.errors import InputError, TrustError, UsageError
from edgegen.training.reading import PhotoReading
from edgegen.training.shards import index
from edgegen.training.source import open_source


def with_member(path: Path, name: str, data: bytes = b"x", **fields: Any) -> Path:
    with tarfile.open(path, "w") as made:
        add(made, "0.png", png(0))
        add(made, name, data, **fields)
    return path


TRAPS: dict[str, tuple[str, dict[str, Any], str]] = {
    "escape": ("../evil.png", {}, "'../evil.png' leads out of the archive"),
    "escape within": ("a/../../evil.png", {}, "leads out"),
    "absolute": ("/etc/passwd.png", {}, "'/etc/passwd.png' leads out"),
    "drive": ("C:/evil.png", {}, "leads out"),
    "backslash": ("..\\evil.png", {}, "leads out"),
    "symbolic link": (
        "1.png",
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        "'1.png' is a symbolic link; only files",
    ),
    "hard link": ("1.png", {"type": tarfile.LNKTYPE, "linkname": "0.png"}, "is a hard link"),
    "device": ("1.png", {"type": tarfile.CHRTYPE}, "is a device"),
    "pipe": ("1.png", {"type": tarfile.FIFOTYPE}, "is a pipe"),
    "sparse": ("1.png", {"type": tarfile.GNUTYPE_SPARSE}, "is a sparse file"),
    "pax path": ("1.png", {"pax_headers": {"path": "../../evil.png"}}, "leads out"),
    "sparse in pax": (
        "1.png",
        {"pax_headers": {"GNU.sparse.major": "1"}},
        "pax header 'GNU.sparse.major' is not accepted",
    ),
    "long path": ("d/" * 2500 + "1.png", {}, "more than any name needs"),
    "long header": (
        "1.png",
        {"pax_headers": {"comment": "x" * 100_000}},
        "extension header of 100",
    ),
}


@pytest.mark.parametrize("case", TRAPS)
def test_traps_are_refused_and_nothing_is_written(tmp_path: Path, case: str) -> None:
    name, fields, words = TRAPS[case]
    root = tmp_path / "in" / "deep"
    root.mkdir(parents=True)
    with tarfile.open(
        root / "a.tar",
        "w",
        format=tarfile.GNU_FORMAT if case == "long path" else tarfile.PAX_FORMAT,
    ) as made:
        add(made, "0.png", png(0))
        add(made, name, b"" if "type" in fields else png(1), **fields)
    assert words in refused(lambda: index([root / "a.tar"]), TrustError, "E-SHARD-MEMBER")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["a.tar"]


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/edgegen-was-here",)


@pytest.mark.parametrize("name", ["0.pyd", "0.pickle", "x/0.PKL", "0.seg.pt", "0.pth"])
def test_a_pickle_is_refused_unread(tmp_path: Path, name: str) -> None:
    path = with_member(tmp_path / "a.tar", name, pickle.dumps(Evil()))
    said = refused(lambda: index([path]), TrustError, "E-PICKLE")
    assert f"member '{name}' is a pickle: edgegen does not read pickle files" in said
    assert not Path("/tmp/edgegen-was-here").exists()


def test_a_pickle_that_is_called_a_label_is_only_a_bad_label(tmp_path: Path) -> None:
    for name in ("0.cls", "0.json"):
        path = with_member(tmp_path / "a.tar", name, pickle.dumps(Evil()))
        assert f"'{name}' " in refused(lambda p=path: index([p]), InputError, "E-SHARD-LABEL")  # type: ignore[misc]


def test_a_shard_that_is_cut_off_is_refused_wherever_the_cut_is(tmp_path: Path) -> None:
    data = shard(tmp_path / "whole.tar", range(3)).read_bytes()
    end = len(data.rstrip(b"\0"))
    for cut in [*range(1, end, 97), *range(512, end + 512, 512)]:
        (tmp_path / "a.tar").write_bytes(data[:cut])
        assert "it was cut off" in refused(
            lambda: index([tmp_path / "a.tar"]), InputError, "E-SHARD-TRUNCATED"
        )
    (tmp_path / "a.tar").write_bytes(data[:600])
    assert "ends inside '000000.png'" in refused(
        lambda: index([tmp_path / "a.tar"]), InputError, "E-SHARD-TRUNCATED"
    )
    (tmp_path / "a.tar").write_bytes(b"")
    assert "at byte 0" in refused(
        lambda: index([tmp_path / "a.tar"]), InputError, "E-SHARD-TRUNCATED"
    )


def test_what_is_no_plain_tar_says_so(tmp_path: Path) -> None:
    path, data = tmp_path / "a.tar", shard(tmp_path / "whole.tar", range(3)).read_bytes()
    with tarfile.open(path, "w:gz") as made:
        for k in range(20):
            add(made, f"{k}.png", png(k))
    assert "compressed with gzip" in refused(
        lambda: index([path]), InputError, "E-SHARD-COMPRESSED"
    )
    path.write_bytes(b"PK\3\4" + os.urandom(2000))
    assert "no tar header at byte 0" in refused(lambda: index([path]), InputError, "E-SHARD-HEADER")
    path.write_bytes(data[:3] + b"!" + data[4:])
    assert "no tar header at byte 0" in refused(lambda: index([path]), InputError, "E-SHARD-HEADER")
    path.write_bytes(data + data)
    assert "data follows the archive's end" in refused(
        lambda: index([path]), InputError, "E-SHARD-JOINED"
    )
    path.write_bytes(bytes(10240))
    assert "found 0 images in 1 shards" in refused(
        lambda: index([path]), InputError, "E-DATA-EMPTY"
    )
    (tmp_path / "l.tar").symlink_to(tmp_path / "whole.tar")
    assert "symbolic link" in refused(
        lambda: index([tmp_path / "l.tar"]), InputError, "E-DATA-LINK"
    )
    (tmp_path / "pipe.tar").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "pipe.tar")
    assert "not a regular file" in refused(
        lambda: index([tmp_path / "pipe.tar"]), InputError, "E-SHARD-READ"
    )


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("0.cls", b"-1")], "'0.cls' says label -1, which is not from 0 to 999"),
        ([("0.cls", b"1000")], "says label 1000"),
        ([("0.cls", b"cat")], "'0.cls' is not a whole number: it starts with b'cat'"),
        ([("0.cls", b"1" * 65)], "has 65 bytes, more than 64"),
        ([("0.json", b"{")], "'0.json' is not JSON"),
        ([("0.json", b"[" * 30_000)], "is not JSON"),
        ([("0.json", b"[1]")], 'needs a "label"'),
        ([("0.json", b'{"label": 1.5}')], "got 1.5"),
        ([("0.json", b'{"label": true}')], "got True"),
        ([("0.json", b'{"label": ""}')], "got ''"),
        (
            [("0.json", b'{"label": "a"}'), ("1.png", png(1)), ("1.cls", b"1")],
            "'1.png' has a number, those before have a text",
        ),
        ([("0.cls", b"1"), ("1.png", png(1))], "'1.png' has no label, those before have a number"),
    ],
)
def test_labels_that_cannot_be_used_are_named(
    tmp_path: Path, members: list[tuple[str, bytes]], words: str
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as made:
        for name, data in [("0.png", png(0)), *members]:
            add(made, name, data)
    assert words in refused(lambda: index([tmp_path / "a.tar"]), InputError, "E-SHARD-LABEL")


@pytest.mark.parametrize("name", ["0.png", "0.jpg"])
def test_two_photos_of_one_sample_are_refused(tmp_path: Path, name: str) -> None:
    assert "0.png" in refused(
        lambda: index([with_member(tmp_path / "a.tar", name, png(1))]), InputError, "E-SHARD-MEMBER"
    )


def test_shards_beside_images_and_wrong_settings_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "s", 10)
    (root / "x.png").write_bytes(png(1))
    with pytest.raises(InputError, match="1 images lie beside 1 tar shards"), open_source(root, 16):
        pass
    with (
        pytest.raises(UsageError),
        open_source(folder(tmp_path / "t", 10), 16, PhotoReading("no colour")),
    ):
        pass
    with pytest.raises(InputError, match="does not exist"), open_source(tmp_path / "none.tar", 16):
        pass
