"""Files and folders are whole or absent: kills, full disks, modes, and JSON that is refused."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgegen.core import disk, files
from edgegen.core.files import ASIDE, discard, publish, publish_alone, write_bytes
from edgegen.core.temporary import PREFIX, private_file, private_folder, sweep
from edgegen.errors import InputError, ResourceError, UsageError

MARK = "manifest.json"


def make(target: Path, word: str = "new", count: int = 3, overwrite: bool = False) -> None:
    with publish(target, MARK, overwrite) as new:
        (new / "sub").mkdir()
        for k in range(count):
            (new / "sub" / f"{k}.txt").write_text(word)
        (new / MARK).write_text(word)


def words(target: Path) -> set[str]:
    """What the files of a published folder say; one word when it is all of one version."""
    found = [path.read_text() for path in target.rglob("*") if path.is_file()]
    assert len(found) == 4
    return set(found)


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(PREFIX)]


# kill -9

KILLED = """
import os, sys, itertools
sys.path[:0] = {path!r}
from pathlib import Path
from edgegen.core.files import publish, write_bytes
target = Path({target!r})
for k in itertools.count():
    word = f"version{{k}}"
    with publish(target, "manifest.json", overwrite=True) as new:
        (new / "sub").mkdir()
        for i in range(3):
            (new / "sub" / f"{{i}}.txt").write_text(word)
        (new / "manifest.json").write_text(word)
    write_bytes(target.with_name("single"), word.encode() * 1000)
    if k == 0:
        print("go", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("exchange", [True, False])
def test_kill_9_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path, exchange: bool) -> None:
    """Without an atomic exchange a kill between two renames may leave nothing under the name: the
    old one is then whole beside it, and the next run puts it back.
    """
    rng, target = random.Random(0), tmp_path / "out"
    code = KILLED.format(path=[p for p in sys.path if p], target=str(target))
    if not exchange:
        code = code.replace(
            "target = Path",
            "import edgegen.core.files as f; f._exchange = lambda a, b: -1\ntarget = Path",
            1,
        )
    whole = 0
    for _ in range(12):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stdout.readline() == "go\n"
        time.sleep(rng.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert len(words(target if target.exists() else tmp_path / (ASIDE + "out"))) == 1
        whole += target.exists()
        single = (tmp_path / "single").read_bytes()
        assert len(set(single.split(b"version")[1:])) == 1 and single.count(b"version") == 1000
    assert whole == 12 if exchange else whole > 0
    make(target, overwrite=True)  # a rerun succeeds
    assert words(target) == {"new"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "single"]


@pytest.mark.parametrize("name", ["fsync", "rename", "replace"])
def test_a_call_that_fails_leaves_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Every fsync and rename fails once, the first, the second, ..., until a publication needs no
    more of them.
    """
    target, single = tmp_path / "out", tmp_path / "single"
    make(target, "old")
    write_bytes(single, b"old")
    real: Callable[..., Any] = getattr(os, name)
    failures = 0
    for nth in range(1, 20):
        calls = 0

        def refuse(*arguments: Any, nth: int = nth, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == nth:
                raise OSError(errno.EIO, "Input/output error")
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            try:
                make(target, "new", overwrite=True)
                write_bytes(single, b"new")
            except ResourceError as error:
                assert error.code == "E-DISK" and "cannot write: Input/output error" in str(error)
                failures += 1
        assert words(target) in ({"old"}, {"new"}) and single.read_bytes() in (b"old", b"new")
        assert leftovers(tmp_path) == []
        if calls < nth:
            break
    assert calls < nth and failures == nth - 1
    assert words(target) == {"new"} and single.read_bytes() == b"new"


def test_data_is_synced_before_the_rename_and_the_parent_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, swap = disk.sync, files._swap

    def note_sync(path: Path) -> None:
        events.append(path.name)
        sync(path)

    def note_swap(temporary: Path, target: Path, mark: str, overwrite: bool) -> None:
        events.append("swap")
        swap(temporary, target, mark, overwrite)

    monkeypatch.setattr(files, "sync", note_sync)
    monkeypatch.setattr(files, "_swap", note_swap)
    make(tmp_path / "out", count=1)
    inside = events[: events.index("swap")]
    assert (
        inside.index("0.txt") < inside.index("sub")
        and MARK in inside
        and inside[-1].startswith(PREFIX)
    )
    assert events[-1] == tmp_path.name and events[-2] == "swap"


# disk full


def test_a_full_disk_is_said_with_the_free_space_and_the_old_stays(tmp_path: Path) -> None:
    target = tmp_path / "out"
    make(target, "old")
    write_bytes(tmp_path / "single", b"old")
    code = f"""
import resource, sys
sys.path[:0] = {[p for p in sys.path if p]!r}
from pathlib import Path
from edgegen.core.files import publish, write_bytes
from edgegen.errors import ResourceError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
def big():
    with publish(Path({str(target)!r}), "manifest.json", overwrite=True) as new:
        (new / "manifest.json").write_bytes(bytes(5000))
for call in (big, lambda: write_bytes(Path({str(tmp_path / "single")!r}), bytes(5000))):
    try:
        call()
    except ResourceError as error:
        print(error.code, error.exit_code, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    start = "E-DISK-FULL 7 error[E-DISK-FULL] cannot write: File too large; "
    assert len(lines) == 2 and all(line.startswith(start) for line in lines)
    assert all("MB free" in line for line in lines)
    assert (
        words(target) == {"old"}
        and (tmp_path / "single").read_bytes() == b"old"
        and leftovers(tmp_path) == []
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "E-DISK-FULL"),
        (errno.EDQUOT, "E-DISK-FULL"),
        (errno.EROFS, "E-DISK-RO"),
    ],
)
def test_what_the_block_may_raise_about_the_disk(tmp_path: Path, number: int, code: str) -> None:
    with pytest.raises(ResourceError) as caught, publish(tmp_path / "out", MARK):
        raise OSError(number, os.strerror(number))
    assert caught.value.code == code and caught.value.path == str(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file"),
        PermissionError(errno.EACCES, "denied"),
        ValueError("x"),
        KeyboardInterrupt(),
        InputError("E-X", "x"),
    ],
)
def test_other_errors_of_the_block_stay_what_they_are(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, publish(tmp_path / "out", MARK) as new:
        (new / "half").write_text("half")
        raise error
    assert caught.value is error and list(tmp_path.iterdir()) == []


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        make(tmp_path / "file" / "out")
    with pytest.raises(ResourceError, match="cannot write"):
        write_bytes(tmp_path / "missing" / "x", b"")


def test_write_bytes_cleans_up_after_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(fd: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "x", b"new")
    assert list(tmp_path.iterdir()) == []


# what may be replaced


def test_overwrite_rules(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    make(target, "a")
    with pytest.raises(
        UsageError, match=r"the output folder is not empty .* - choose another, or add --overwrite"
    ) as caught:
        make(target, "b")
    assert caught.value.code == "E-OUT-EXISTS" and words(target) == {"a"}
    make(target, "b", overwrite=True)
    assert words(target) == {"b"}
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty", "c")
    assert words(tmp_path / "empty") == {"c"}
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(
        UsageError, match=r"the output folder is not one of edgegen's .* - choose another"
    ):
        make(foreign, overwrite=True)
    assert (foreign / "thesis.txt").read_text() == "mine"
    for path in (tmp_path / "file", tmp_path / "link"):
        path.write_text("x") if path.name == "file" else path.symlink_to(foreign)
        with pytest.raises(UsageError, match="the output exists and is not a folder"):
            make(path, overwrite=True)
    assert leftovers(tmp_path) == []


def test_the_working_folder_home_and_root_are_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for path in (Path("."), tmp_path, Path("/"), tmp_path / "home", tmp_path / "x" / ".."):
        with pytest.raises(UsageError, match="cannot be /, the home or the working folder"):
            make(path, overwrite=True)


@pytest.mark.parametrize("exchange", [True, False])
def test_both_ways_to_replace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda a, b: -1)
    make(tmp_path / "out", "a")
    make(tmp_path / "out", "b", overwrite=True)
    assert words(tmp_path / "out") == {"b"} and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_fallback_puts_the_old_back_when_the_second_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "out", "old")
    monkeypatch.setattr(files, "_exchange", lambda a, b: -1)
    rename, calls = os.rename, []

    def last_fails(path: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 3:  # onto the old one, the old one aside, into its place
            raise OSError(errno.EACCES, "Permission denied")
        rename(path, target)

    monkeypatch.setattr(os, "rename", last_fails)
    with pytest.raises(ResourceError, match="Permission denied"):
        make(tmp_path / "out", "new", overwrite=True)
    assert words(tmp_path / "out") == {"old"} and leftovers(tmp_path) == []


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o027, 0o002])
def test_modes_follow_the_umask_even_for_files_written_0600(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with publish(tmp_path / "out", MARK) as new:
            # private while it is being written
            assert stat.S_IMODE(new.stat().st_mode) == 0o700 & ~umask
            (new / "sub").mkdir(mode=0o700)
            (new / "sub" / "weights").touch(mode=0o600)
            (new / MARK).touch()
        write_bytes(tmp_path / "single", b"")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*")}
    assert modes == {
        "out": 0o777 & ~umask,
        "sub": 0o777 & ~umask,
        "weights": 0o666 & ~umask,
        MARK: 0o666 & ~umask,
        "single": 0o666 & ~umask,
    }


def test_sweep_takes_only_ours_and_only_the_dead(tmp_path: Path) -> None:
    """However old: a process may work for days, and be killed in its first second."""
    dead = [f"{PREFIX}{k:032x}" for k in range(2)]
    (tmp_path / dead[0]).mkdir()
    (tmp_path / dead[0] / "x").write_text("x")
    (tmp_path / dead[1]).write_text("x")
    for name in ("other", f"{PREFIX}notes"):
        (tmp_path / name).mkdir()
    (tmp_path / f"{PREFIX}{2:032x}").symlink_to(tmp_path / "other")
    with private_folder(tmp_path) as folder, private_file(tmp_path) as (file, _):
        for path in (folder, file):
            os.utime(path, (0, 0))
        make(tmp_path / "out")
        write_bytes(tmp_path / "single", b"")
        assert folder.is_dir() and file.is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"{PREFIX}{2:032x}",
        f"{PREFIX}notes",
        "other",
        "out",
        "single",
    ]
    sweep(tmp_path / "nowhere")


def test_discard_is_gone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            discard(tmp_path / "out")
    assert not (tmp_path / "out").exists() and len(leftovers(tmp_path)) == 1
    with pytest.raises(ResourceError, match="No such file"):
        discard(tmp_path / "out")


def test_folders_made_on_the_way_go_with_a_failure_and_hold_a_success(tmp_path: Path) -> None:
    (there := tmp_path / "there").mkdir()
    target = there / "a" / "b" / "out"
    with pytest.raises(ValueError, match="of no use"), publish_alone(target, MARK):
        assert target.parent.is_dir()
        raise ValueError("of no use")
    assert sorted(os.listdir(tmp_path)) == ["there"] and os.listdir(there) == []
    with pytest.raises(ValueError, match="of no use"), publish_alone(target, MARK):
        write_bytes(target.with_name("another's"), b"stays")
        raise ValueError("of no use")
    assert sorted(os.listdir(target.parent)) == ["another's"]
    make(target)
    assert sorted(os.listdir(target.parent)) == ["another's", "out"]
