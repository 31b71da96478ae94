"""Tar shards give the same photos in the same order whatever reads them; a bad photo costs itself
alone. What is refused: test_shards_refused.
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_photos import bomb
from PIL import Image
from shards_of import add, folder, png, refused, shard

from edgegen.errors import InputError
from edgegen.training import order, stream, tar
from edgegen.training.data import BadPhotos, Photos
from edgegen.training.layout.description import Bad
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


def test_no_file_of_an_epoch_is_permuted_twice() -> None:
    a = order.picks(100, 10, 0, 0)
    assert a.base is order.picks(100, 10, 1, 0).base and not a.flags.writeable


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
            BadPhotos, match=r"3 of 40 photos .* a\.tar/001\.png, .*: E-IMG-EMPTY"
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
        add(made, "x.gif", b"x")
    with opened(path) as source:
        assert [(b.name, b.code) for b in source.report().bad] == [
            ("a.tar/x.gif", "E-IMG-FORMAT")
        ] and len(source) == 30
    with pytest.raises(BadPhotos, match="GIF is not accepted"):
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
