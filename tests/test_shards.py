"""Tar shards give the same photos in the same order whatever reads them; what has no place in a
shard is refused by name.
"""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_photos import bomb
from PIL import Image
from shards_of import add, folder, png, shard

from edgegen.errors import EdgegenError, InputError, TrustError, UsageError
from edgegen.training import order, stream, tar
from edgegen.training.data import BadPhotos, Photos
from edgegen.training.folder import Bad
from edgegen.training.order import Shuffle
from edgegen.training.photos import Want
from edgegen.training.shards import index
from edgegen.training.source import Source, open_source, sample
from edgegen.training.stream import Shards

WANT = Want(16, (255, 255, 255), 16)


def opened(path: Path, **options: Any) -> Shards:
    return Shards(
        index(sorted(path.glob("*.tar")) if path.is_dir() else [path]),
        WANT,
        **{"workers": 1, **options},
    )


def batches(
    source: Source, steps: range, size: int = 8, seed: int = 0, rank: int = 0, world: int = 1
) -> list[bytes]:
    return [
        b"".join(a.tobytes() for a in source.batch(step, size, seed, rank, world)) for step in steps
    ]


def refused(call: Callable[[], object], kind: type[EdgegenError], code: str) -> str:
    """What the error of that kind and code says; one that is missing, or another, fails the
    test.
    """
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.code == code and caught.value.exit_code == (
        6 if kind is TrustError else 4
    ), caught.value
    return str(caught.value)


# what is read


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_the_standard_library(tmp_path: Path, format: int) -> None:
    path, long = tmp_path / "a.tar", "d/" * 40 + "x" * 90 + ".png"
    with tarfile.open(path, "w", format=format) as made:
        add(made, "d", type=tarfile.DIRTYPE)
        for name in ("./000.png", "gräser 1.png", long, "d/" * 40 + "short.cls"):
            add(made, name, os.urandom(700), mtime=1.5 if format == tarfile.PAX_FORMAT else 1)
    with tarfile.open(path) as made:
        wanted = [(m.name.removeprefix("./"), m.offset_data, m.size) for m in made if m.isfile()]
    assert [(m.name, m.offset, m.size) for m in tar.members(path)] == wanted
    assert tar.name_at(path, wanted[2][1]) == long


def test_a_stream_gives_pixels_labels_and_classes(tmp_path: Path) -> None:
    with open_source(folder(tmp_path / "s", txt=b"a caption"), 16) as (source, report):
        assert (
            len(source) == 40 and source.shape == (16, 16, 3) and source.classes == ("0", "1", "2")
        )
        pixels, labels = source.read(np.arange(40))
        assert labels.tolist() == source.labels.tolist() == [k % 3 for k in range(40)]
        assert pixels.dtype == np.uint8 and pixels.flags.writeable
        for k in (0, 13, 39):
            with Image.open(io.BytesIO(png(k))) as photo:
                near = np.asarray(photo.resize((16, 16), Image.Resampling.BICUBIC))
            assert (pixels[k] == near).all()
        assert (
            report().to_json()["classes"] == {"0": 14, "1": 13, "2": 13}
            and report().kept == report().found == 40
        )
        assert report().warnings == {
            "W-DATA-IGNORED": tuple(f"00{k}.tar/*.txt: 10" for k in range(4))
        }
        assert len(sample(source, 10)) == 10 and (sample(source, 100) == pixels).all()


@pytest.mark.parametrize(("label", "classes"), [("json", ("a", "b", "c")), ("", ())])
def test_labels_may_be_texts_or_absent(
    tmp_path: Path, label: str, classes: tuple[str, ...]
) -> None:
    with open_source(shard(tmp_path / "a.tar", range(6), label), 16) as (source, _):
        assert source.classes == classes
        assert source.labels.tolist() == ([0, 1, 2, 0, 1, 2] if classes else [0] * 6)


def test_labels_and_photos_need_not_be_neighbours(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as made:
        for name, data in (
            ("x/1.cls", b" 2\n"),
            ("x/0.cls", b"1"),
            ("x/1.png", png(1)),
            ("x/0.png", png(0)),
            ("9.cls", b"0"),
        ):
            add(made, name, data)
    with open_source(tmp_path / "a.tar", 16) as (source, report):
        assert source.labels.tolist() == [2, 1] and source.classes == ("0", "1", "2")
        assert report().warnings == {"W-DATA-IGNORED": ("a.tar/labels without a photo: 1",)}


# the order


def test_the_order_is_a_function_of_seed_and_step(tmp_path: Path) -> None:
    """Not of workers, of what was asked before, of the cache, or of how many processes share a
    batch.
    """
    root = folder(tmp_path / "s")
    with (
        opened(root) as one,
        opened(root, workers=3, cache=0) as three,
        opened(root, workers=2, cache=16 * 16 * 3 * 5) as some,
    ):
        whole = batches(one, range(12))
        assert batches(three, range(12)) == whole, "5 steps an epoch, three epochs"
        assert [batches(some, range(k, k + 1))[0] for k in (7, 3, 11, 0)] == [
            whole[k] for k in (7, 3, 11, 0)
        ]
        assert batches(one, range(5), seed=1) != whole[:5] and len(set(whole)) == 12
        halves = [one.batch(3, 8, 0, rank, 2) for rank in (0, 1)]
        pixels, labels = one.batch(3, 8, 0)
        assert (np.stack([h[0] for h in halves], 1).reshape(pixels.shape) == pixels).all()
        assert np.stack([h[1] for h in halves], 1).ravel().tolist() == labels.tolist()


def test_one_shard_gives_the_batches_of_its_photos_in_memory(tmp_path: Path) -> None:
    with opened(shard(tmp_path / "a.tar", range(20))) as source:
        photos = Photos(*source.read(np.arange(20)), source.classes)
        assert batches(source, range(6)) == batches(photos, range(6))


@pytest.mark.parametrize(
    ("counts", "window"),
    [((40,), 100), ((10, 10, 3, 17), 100), ((10, 10, 3, 17), 8), ((1,) * 40, 7)],
)
def test_an_epoch_holds_each_photo_once(counts: tuple[int, ...], window: int) -> None:
    shuffle = Shuffle(counts, window)
    first, second = ([shuffle.picks(8, epoch * 5 + k, 3) for k in range(5)] for epoch in (0, 1))
    for epoch in (first, second):
        assert sorted(np.concatenate(epoch)) == list(range(40))
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()


def test_a_window_bounds_how_far_apart_a_batch_reads() -> None:
    shuffle = Shuffle((1000,) * 50, 500)
    for step in range(60):
        shards = set((shuffle.picks(64, step, 0) // 1000).tolist())
        assert len(shards) <= 4, "64 photos of at most two windows of 500 lie in few shards"
    assert len({int(shuffle.picks(64, step, 0)[0]) // 1000 for step in range(0, 700, 10)}) > 30, (
        "shards are shuffled"
    )


def test_memory_does_not_grow_with_the_photos(tmp_path: Path) -> None:
    with opened(folder(tmp_path / "s"), cache=3 * 16 * 16 * 3) as source:
        batches(source, range(10))
        assert len(source._kept) == 3 and len(source._ahead) == stream.AHEAD


def test_the_fingerprint_names_the_content(tmp_path: Path) -> None:
    def found(path: Path, **options: Any) -> str:
        with opened(path, **options) as source:
            return source.fingerprint

    base = found(folder(tmp_path / "a"))
    assert found(folder(tmp_path / "b"), workers=2, cache=0) == base, (
        "neither place, name nor worker plays a part"
    )
    folder(tmp_path / "c").joinpath("003.tar").unlink()
    shard(tmp_path / "c" / "003.tar", range(31, 41))
    data = bytearray(folder(tmp_path / "f").joinpath("001.tar").read_bytes())
    data[data.rindex(b"IEND") - 6] ^= 1
    (tmp_path / "f" / "001.tar").write_bytes(data)
    others = [
        found(tmp_path / "f"),
        found(tmp_path / "c"),
        found(folder(tmp_path / "d", each=20)),
        found(folder(tmp_path / "e", label="json")),
        found(tmp_path / "a", window=7),
    ]
    assert len({base, *others}) == 6


# bad photos


def spoiled(path: Path, bad: dict[int, bytes], count: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as made:
        for k in range(count):
            add(made, f"{k:03d}.png", bad.get(k, png(k)))
            add(made, f"{k:03d}.cls", str(k % 3).encode())
    return path


def test_bad_photos_are_named_counted_and_stood_in_for(tmp_path: Path) -> None:
    path, told = spoiled(tmp_path / "a.tar", {5: b"", 6: b"<html>"}), list[Bad]()
    with opened(path, tell=told.append) as source, opened(path, workers=3) as other:
        pixels, labels = source.read(np.array([4, 5, 6, 7]))
        assert (pixels[1:] == pixels[3]).all() and labels.tolist() == [1, 1, 1, 1], (
            "the next photo that can be read stands in"
        )
        assert batches(other, range(10)) == batches(source, range(10))
        bad = [(b.name, b.code) for b in source.report().bad]
        assert bad == [("a.tar/005.png", "E-IMG-EMPTY"), ("a.tar/006.png", "E-IMG-NOT-IMAGE")]
        assert sorted(b.name for b in told) == [name for name, _ in bad], "each is told once"
        assert source.report().bad == other.report().bad and source.report().kept == 38


def test_too_many_bad_photos_end_the_run(tmp_path: Path) -> None:
    with opened(spoiled(tmp_path / "a.tar", {1: b"", 2: b"", 30: b""})) as source:
        with pytest.raises(
            BadPhotos, match=r"3 of 40 photos .* a\.tar/001\.png: E-IMG-EMPTY"
        ) as caught:
            source.read(np.arange(40))
        assert caught.value.exit_code == 4
    with (
        opened(spoiled(tmp_path / "b.tar", {1: b""}), on_bad="fail") as source,
        pytest.raises(BadPhotos),
    ):
        source.read(np.arange(40))


def test_formats_that_are_not_read_are_bad_photos_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as made:
        for k in range(30):
            add(made, f"{k}.png", png(k))
        add(made, "x.heic", b"x")
    with opened(path) as source:
        assert [(b.name, b.code) for b in source.report().bad] == [
            ("a.tar/x.heic", "E-IMG-FORMAT")
        ] and len(source) == 30
    with pytest.raises(BadPhotos, match="HEIC is not accepted"):
        opened(path, on_bad="fail")


def test_a_bomb_costs_one_photo(tmp_path: Path) -> None:
    with opened(spoiled(tmp_path / "a.tar", {3: bomb(20_000, 20_000)})) as source:
        source.read(np.arange(8))
        assert [b.code for b in source.report().bad] == ["E-IMG-TOO-LARGE"]


def test_a_shard_that_changes_ends_the_run(tmp_path: Path) -> None:
    root = folder(tmp_path / "s")
    with opened(root) as source:
        source.batch(0, 8, 0)
        shard(root / "001.tar", range(5))
        assert "001.tar" in refused(lambda: source.batch(1, 8, 0), InputError, "E-SHARD-CHANGED")
        (root / "001.tar").unlink()
        assert "No such file" in refused(lambda: source.batch(1, 8, 0), InputError, "E-SHARD-READ")


# shards that are refused


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
        open_source(folder(tmp_path / "t", 10), 16, background="no colour"),
    ):
        pass
    with pytest.raises(InputError, match="does not exist"), open_source(tmp_path / "none.tar", 16):
        pass


def test_no_file_of_an_epoch_is_permuted_twice() -> None:
    a = order.picks(100, 10, 0, 0)
    assert a.base is order.picks(100, 10, 1, 0).base and not a.flags.writeable
