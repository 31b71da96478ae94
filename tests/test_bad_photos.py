"""Every kind of bad photo is named with its code, none stops or crashes the run, none is half
used.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from bad_photos import BAD, encoded, flipped, picture

from edgegen.errors import ResourceError, RuntimeMissing, escaped
from edgegen.training import worker
from edgegen.training.data import BadPhotos, Report, load
from edgegen.training.layout.description import Bad
from edgegen.training.photos import BadPhoto, Want, decode
from edgegen.training.reading import PhotoReading
from edgegen.training.worker import DecoderProcess

WANT = Want(32, (255, 255, 255), 16)


@pytest.fixture(scope="module")
def decoder() -> Any:
    with DecoderProcess(WANT) as started:
        yield started


@pytest.mark.parametrize("case", BAD)
def test_a_bad_photo_is_refused_with_its_code(
    decoder: DecoderProcess, tmp_path: Path, case: str
) -> None:
    name, content, code, words = BAD[case]
    (tmp_path / name).write_bytes(content)
    begin = time.monotonic()
    with pytest.raises(BadPhoto) as caught:
        decoder(str(tmp_path / name))
    assert caught.value.code.startswith(code) and words in caught.value.reason
    assert time.monotonic() - begin < 30, "the limit of a hang, not a speed"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_each_bad_photo_is_named_and_the_rest_is_used(tmp_path: Path) -> None:
    cases = [case for case in BAD if BAD[case][0] != "a.nef"][:4]
    for seed in range(80):
        picture(seed).save(tmp_path / f"good{seed}.png")
    for k, case in enumerate(cases):
        (tmp_path / f"bad{k}.jpg").write_bytes(BAD[case][1])
    photos, report = load(tmp_path, 32)
    assert len(photos) == report.kept == 80 and report.found == 84
    assert [(bad.name, bad.code) for bad in report.bad] == [
        (f"bad{k}.jpg", BAD[case][2]) for k, case in enumerate(cases)
    ]
    assert report.to_json()["bad"][0] == {
        "name": "bad0.jpg",
        "code": "E-IMG-EMPTY",
        "reason": "the file has 0 bytes",
    }
    with pytest.raises(
        BadPhotos,
        match=r"4 of 84 photos .* used: bad0\.jpg: E-IMG-EMPTY the file has 0 bytes; bad1",
    ) as caught:
        load(tmp_path, 32, PhotoReading(on_bad="fail"))
    assert (
        caught.value.code == "E-DATA-BAD"
        and caught.value.exit_code == 4
        and caught.value.report == report
    )


def test_more_than_five_percent_bad_always_fails(tmp_path: Path) -> None:
    for seed in range(19):
        picture(seed).save(tmp_path / f"{seed}.png")
    (tmp_path / "x.jpg").write_bytes(b"")
    assert len(load(tmp_path, 32)[1].bad) == 1, "1 of 20 is 5 %"
    (tmp_path / "y.jpg").write_bytes(b"")
    with pytest.raises(BadPhotos, match=r"x\.jpg, y\.jpg: E-IMG-EMPTY") as caught:
        load(tmp_path, 32, PhotoReading(on_bad="skip"))
    assert "at most 5% may be skipped" in caught.value.hint


def test_a_long_list_is_cut_in_the_sentence_but_not_in_the_report() -> None:
    report = Report(
        50,
        0,
        bad=tuple(Bad(f"{k:02d}.jpg", "E-IMG-EMPTY", "the file has 0 bytes") for k in range(50)),
    )
    error = BadPhotos(report, Path("x"), "")
    assert (
        "00.jpg, 01.jpg, 02.jpg and 47 more: E-IMG-EMPTY the file has 0 bytes" in error.message
        and "03.jpg" not in error.message
    )
    assert len(error.report.bad) == 50


def test_names_are_printed_without_control_characters() -> None:
    assert (
        escaped("a\x1b[31m\n\udcff.jpg") == "a\\x1b[31m\\n\\udcff.jpg"
        and escaped("gräser 1.jpg") == "gräser 1.jpg"
    )


def test_names_that_are_no_text_can_be_reported(tmp_path: Path) -> None:
    for k in range(30):
        picture(k).save(tmp_path / f"{k}.png")
    with open(os.fsencode(tmp_path) + b"/\xff\n.jpg", "wb"):
        pass
    _, report = load(tmp_path, 32)
    assert [bad.code for bad in report.bad] == ["E-IMG-EMPTY"]


# links, permissions, files that change


def test_links_are_refused_and_never_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    for k in range(60):
        picture(k).save(inside / f"{k}.png")
    picture(99).save(outside / "secret.png")
    (inside / "file.png").symlink_to(outside / "secret.png")
    (inside / "folder").symlink_to(outside)
    (inside / "loop.jpg").symlink_to("loop.jpg")
    photos, report = load(inside, 32)
    assert [(bad.name, bad.code) for bad in report.bad] == [
        (name, "E-DATA-LINK") for name in ("file.png", "folder", "loop.jpg")
    ]
    assert len(photos) == 60


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EACCES, "E-DATA-PERM"),
        (errno.ENOENT, "E-DATA-GONE"),
        (errno.ELOOP, "E-DATA-LINK"),
        (errno.EIO, "E-DATA-READ"),
    ],
)
def test_files_that_cannot_be_opened_say_why(
    monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BadPhoto) as caught:
        decode("a.jpg", WANT)
    assert caught.value.code == code


def test_a_file_that_changes_after_listing_is_still_checked(
    decoder: DecoderProcess, tmp_path: Path
) -> None:
    with pytest.raises(BadPhoto, match="E-DATA-GONE"):
        decoder(str(tmp_path / "gone.png"))
    picture().save(tmp_path / "real.png")
    (tmp_path / "link.png").symlink_to("real.png")
    with pytest.raises(BadPhoto, match="E-DATA-LINK"):
        decoder(str(tmp_path / "link.png"))
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadPhoto, match="not a regular file"):
        decoder(str(tmp_path / "pipe.png"))


def test_a_huge_file_is_not_read(decoder: DecoderProcess, tmp_path: Path) -> None:
    with open(tmp_path / "a.bmp", "wb") as file:
        file.truncate(300 << 20)
    with pytest.raises(BadPhoto, match="E-IMG-TOO-LARGE 300 MiB is more than the limit of 256 MiB"):
        decoder(str(tmp_path / "a.bmp"))


# the child process


def test_the_child_has_a_memory_limit(decoder: DecoderProcess, tmp_path: Path) -> None:
    with pytest.raises(BadPhoto):
        decoder(str(tmp_path / "none"))
    assert decoder._child is not None
    assert resource.prlimit(decoder._child.pid, resource.RLIMIT_AS) == (
        worker.MEMORY,
        worker.MEMORY,
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_decoder_that_dies_costs_no_photo(tmp_path: Path, number: signal.Signals) -> None:
    picture().save(tmp_path / "a.png")
    with DecoderProcess(WANT) as decoder:
        good = decoder(str(tmp_path / "a.png"))
        child = decoder._child
        assert child is not None
        child.send_signal(number)
        assert decoder(str(tmp_path / "a.png")) == good
        last = decoder._child
    assert last is not None and last.poll() is not None, "no process is left"


# a decoder that ends when it is asked: by a signal, or with an exit code
ENDING = "import os, sys; print('ready', flush=True); sys.stdin.readline(); {}"


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        ("os.kill(os.getpid(), 11)", "E-IMG-CORRUPT", "the decoder crashed on it, 2 times"),
        ("os.abort()", "E-IMG-CORRUPT", "the decoder crashed on it, 2 times"),
        ("os.kill(os.getpid(), 9)", "E-DECODER", "was ended by SIGKILL and again was ended by"),
        ("os.kill(os.getpid(), 15)", "E-DECODER", "was ended by SIGTERM"),
        ("sys.exit(3)", "E-DECODER", "ended with exit code 3"),
    ],
)
def test_a_decoder_that_always_dies_is_said_as_what_it_is(
    tmp_path: Path, end: str, code: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photo on which native code crashes each time is bad; a machine that ends processes is no
    reason to train without it.
    """
    picture().save(tmp_path / "a.png")
    monkeypatch.setattr(worker, "CODE", ENDING.format(end))
    with DecoderProcess(WANT) as decoder, pytest.raises((BadPhoto, ResourceError)) as caught:
        decoder(str(tmp_path / "a.png"))
    assert caught.value.code == code and words in str(caught.value)  # type: ignore[attr-defined]
    if code == "E-DECODER":
        assert isinstance(caught.value, ResourceError) and caught.value.exit_code == 7
        for k in range(3):
            picture(k).save(tmp_path / f"{k}.png")
        with pytest.raises(ResourceError):
            load(tmp_path, 32)


def test_a_decoder_that_hangs_costs_one_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture().save(tmp_path / "a.png")
    with DecoderProcess(WANT, seconds=0.2) as decoder:
        monkeypatch.setattr(
            worker, "CODE", "import time; print('ready', flush=True); time.sleep(60)"
        )
        with pytest.raises(BadPhoto, match="E-IMG-TIME"):
            decoder(str(tmp_path / "a.png"))
        assert decoder._child is None


def test_a_decoder_that_cannot_start_is_not_blamed_on_the_photos(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "CODE", "raise SystemExit(1)")
    with DecoderProcess(WANT) as decoder, pytest.raises(RuntimeMissing) as caught:
        decoder("a.png")
    assert caught.value.code == "E-DECODER"


def test_bombs_do_not_grow_any_process(decoder: DecoderProcess, tmp_path: Path) -> None:
    for case in ("B17 bomb", "B18 smaller bomb", "B19 largest size", "WebP bomb"):
        (tmp_path / "x").write_bytes(BAD[case][1])
        with pytest.raises(BadPhoto):
            decoder(str(tmp_path / "x"))
    assert decoder._child is not None
    status = Path(f"/proc/{decoder._child.pid}/status").read_text()
    peak = int(status.partition("VmPeak:")[2].split()[0]) >> 10
    assert peak < 1000, f"{peak} MiB"
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY, (
        "the limit is the child's alone"
    )


@pytest.mark.parametrize("level", [0, 9])
def test_every_bit_of_a_png_counts(tmp_path: Path, level: int) -> None:
    """A flipped bit is refused or changes nothing that is used: a PNG is never half used."""
    # 0: stored, where only checksums can tell
    data = encoded("PNG", picture(3, 20, 20), compress_level=level)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    good = decode(str(path), WANT)[0]
    for where in range(0, len(data), 7):
        path.write_bytes(flipped(data, where))
        with contextlib.suppress(BadPhoto):
            assert decode(str(path), WANT)[0] == good, where
