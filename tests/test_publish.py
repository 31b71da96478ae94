"""An output is the old one or the new one, whatever goes wrong and whoever else writes there."""

from __future__ import annotations

import ast
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty import REFUSALS, at_hit, killed_at, points_of, refuse
from house import ROOT, our_modules
from runs import at, go

from edgegen.core import faults, files
from edgegen.core.files import publish, publish_alone, put, write_bytes
from edgegen.core.locks import held
from edgegen.core.temporary import PREFIX, scratch
from edgegen.errors import Busy, EdgegenError, ResourceError, UsageError

MARK = "manifest.json"


def make(target: Path, word: str = "new", overwrite: bool = True) -> None:
    """One folder and one file, as a verb writes them."""
    with publish_alone(target, MARK, overwrite) as new:
        (new / "sub").mkdir()
        put(new / "sub" / "a.txt", word.encode() * 100)
        put(new / MARK, word.encode())
    write_bytes(target.with_name("single"), word.encode() * 100)


def state(folder: Path) -> dict[str, set[str]]:
    """Each word that the folder and the file hold."""
    return {
        "out": {p.read_text()[:3] for p in (folder / "out").rglob("*") if p.is_file()},
        "single": {(folder / "single").read_text()[:3]},
    }


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture(params=[True, False], ids=["exchange", "no exchange"])
def exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A file system that can exchange two folders, and one that cannot."""
    if not request.param:
        monkeypatch.setattr(files, "_exchange", lambda a, b: -1)
    return bool(request.param)


# faults at every point


def hits(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "hit"


def named_points() -> set[str]:
    return {
        node.value
        for path in our_modules().values()
        if "hit(" in (source := path.read_text())
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        and (hits(call) or (isinstance(call.func, ast.Name) and call.func.id == "_write"))
        for node in call.args
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_every_point_is_in_the_registry_and_somewhere_in_the_sources() -> None:
    assert named_points() == set(faults.POINTS)


def test_nobody_listens_outside_a_test() -> None:
    assert faults._listener is None
    callers = [name for name, path in our_modules().items() if "listening(" in path.read_text()]
    assert callers == ["edgegen.core.faults"]


def test_publishing_passes_the_points_it_should(tmp_path: Path, exchange: bool) -> None:
    make(tmp_path / "out", "old")
    passed = points_of(lambda: make(tmp_path / "out"))
    writes = {
        p for p in faults.POINTS if p.partition(".")[0] in ("lock", "write", "put", "publish")
    }
    assert set(passed) == writes - ({"publish.aside"} if exchange else set())


def test_kill_9_at_every_point(tmp_path: Path, exchange: bool) -> None:
    make(tmp_path / "out", "old")
    count = len(points_of(lambda: make(tmp_path / "out", "old")))
    for number in range(count):
        make(tmp_path / "out", "old")
        assert killed_at(number, lambda: make(tmp_path / "out"))
        if exchange or (tmp_path / "out").exists():
            assert all(len(words) == 1 for words in state(tmp_path).values())
        make(tmp_path / "out", "end")
        assert state(tmp_path) == {"out": {"end"}, "single": {"end"}}
        assert left(tmp_path) == ["out", "single"], f"killed at {number}"


@pytest.mark.parametrize("shift", range(0, len(REFUSALS), 3))
def test_a_disk_that_refuses_at_every_point(tmp_path: Path, exchange: bool, shift: int) -> None:
    """Each point once with every third of the reasons; `make reliability` has all."""
    make(tmp_path / "out", "old")
    passed = points_of(lambda: make(tmp_path / "out", "old"))
    for number, point in enumerate(passed):
        name = REFUSALS[(number + shift) % len(REFUSALS)]
        make(tmp_path / "out", "old")
        with faults.listening(at_hit(number, refuse(name))):
            with pytest.raises(ResourceError) as caught:
                make(tmp_path / "out")
            assert PREFIX not in str(caught.value), "a name that will be there"
        assert all(len(words) == 1 for words in state(tmp_path).values()), f"{name} at {point}"
        assert left(tmp_path) == ["out", "single"], f"{name} at {point}"


def test_the_folder_is_taken_away_while_it_is_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for gone in (lambda new: new, lambda new: home):
        with pytest.raises(ResourceError) as caught, publish(home / "out", MARK) as new:
            shutil.rmtree(gone(new))
            put(new / MARK, b"x")
        assert (caught.value.code, caught.value.exit_code) == ("E-OUT-GONE", 7)
        home.mkdir(exist_ok=True)
    assert left(home) == []
    with pytest.raises(ResourceError), publish(home / "out", MARK) as new:
        put(new / MARK, b"x")
        shutil.rmtree(new)
    assert left(home) == []


def test_a_full_disk_that_a_native_writer_tells_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ResourceError, match="No space left on device") as caught:  # noqa: SIM117
        with publish(tmp_path / "out", MARK):
            raise RuntimeError("basic_ios::clear: iostream error")
    assert caught.value.code == "E-DISK-FULL"


# what appears under the name meanwhile


def a_folder(target: Path) -> None:
    target.mkdir()
    (target / "thesis.txt").write_text("mine")


def a_file(target: Path) -> None:
    target.write_text("mine")


def a_link(target: Path) -> None:
    target.symlink_to("elsewhere")


def one_of_ours(target: Path) -> None:
    target.mkdir()
    (target / MARK).write_text("mine")


def marked_by_a_link(target: Path) -> None:
    target.mkdir()
    (target / MARK).symlink_to("/etc/hostname")


def snapshot(target: Path) -> list[str]:
    if target.is_symlink():
        return [os.readlink(target)]
    return [target.read_text()] if target.is_file() else sorted(p.name for p in target.iterdir())


APPEARS: list[Callable[[Path], None]] = [a_folder, a_file, a_link, marked_by_a_link]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("appears", [*APPEARS, one_of_ours])
def test_what_appears_while_the_work_goes_on_stays(
    tmp_path: Path, exchange: bool, appears: Callable[[Path], None], overwrite: bool
) -> None:
    target = tmp_path / "out"
    if appears is one_of_ours and overwrite:
        with publish(target, MARK, overwrite) as new:
            put(new / MARK, b"new")
            appears(target)
        assert (target / MARK).read_text() == "new" and left(tmp_path) == ["out"]
        return
    with pytest.raises(UsageError) as caught, publish(target, MARK, overwrite) as new:
        put(new / MARK, b"new")
        appears(target)
        before = snapshot(target)
    assert caught.value.code == "E-OUT-EXISTS"
    assert snapshot(target) == before and left(tmp_path) == ["out"]


@pytest.mark.parametrize("appears", APPEARS)
@pytest.mark.parametrize("atomic", [True, False])
def test_what_appears_in_the_last_moment_stays(
    tmp_path: Path,
    appears: Callable[[Path], None],
    atomic: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After our last look at what is to be replaced, before it is."""
    target, swap = tmp_path / "out", files._exchange
    make(target, "old")
    calls = 0

    def late(a: Path, b: Path) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            shutil.rmtree(target)
            appears(target)
        return swap(a, b) if atomic else -1

    monkeypatch.setattr(files, "_exchange", late)
    with pytest.raises(UsageError, match="something else has appeared") as caught:
        make(target)
    assert caught.value.code == "E-OUT-EXISTS"
    kept = snapshot(target)
    monkeypatch.undo()
    target.unlink() if not target.is_dir() or target.is_symlink() else shutil.rmtree(target)
    appears(target)
    assert snapshot(target) == kept and left(tmp_path) == ["out", "single"]


def test_an_empty_folder_may_appear(tmp_path: Path) -> None:
    with publish(tmp_path / "out", MARK) as new:
        put(new / MARK, b"new")
        (tmp_path / "out").mkdir()
    assert (tmp_path / "out" / MARK).read_text() == "new"


def test_nothing_is_said_about_overwriting_where_nothing_can_be(tmp_path: Path) -> None:
    a_folder(tmp_path / "out")
    for mark, hint in ((MARK, "choose another, or add --overwrite"), ("", "choose another")):
        with pytest.raises(UsageError) as caught, publish(tmp_path / "out", mark):
            pass
        assert caught.value.hint == hint


# two writers


def test_four_writers_of_one_folder(tmp_path: Path) -> None:
    """One writes; the others are told who it is, or that something is there."""
    ends: list[str] = []
    start, wait = threading.Barrier(4), threading.Event()

    def write(number: int) -> None:
        start.wait()
        try:
            with publish_alone(tmp_path / "out", "") as new:
                put(new / "image.png", bytes([number]))
                wait.wait(0.2)
            ends.append("written")
        except EdgegenError as error:
            ends.append(error.code)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(set(ends)) in (["E-LOCKED", "written"], ["E-LOCKED", "E-OUT-EXISTS", "written"])
    assert ends.count("written") == 1 and left(tmp_path) == ["out"]


def test_who_is_busy_is_named_and_the_lock_goes_with_it(tmp_path: Path) -> None:
    with held(tmp_path / "out"):
        with pytest.raises(Busy) as caught, held(tmp_path / "out"):
            pass
        assert caught.value.exit_code == 8 and caught.value.path == str(tmp_path / "out")
        assert f"process {os.getpid()} on " in caught.value.message
        assert "since 20" in caught.value.message
    assert left(tmp_path) == []

    def hold() -> None:
        with held(tmp_path / "out"):
            faults.hit("lock.taken", tmp_path)

    assert killed_at(0, hold)
    assert left(tmp_path) == ["out.lock"]
    with held(tmp_path / "out"):
        pass
    assert left(tmp_path) == []


@pytest.mark.parametrize("said", [b"", b"[]", b'{"pid": 1}', b"\xff", b"9" * 9999])
def test_a_lock_that_says_nonsense_still_holds(tmp_path: Path, said: bytes) -> None:
    with held(tmp_path / "out"):
        (tmp_path / "out.lock").write_bytes(said)
        with pytest.raises(Busy, match="another process is writing it"), held(tmp_path / "out"):
            pass


@pytest.mark.parametrize(
    "place", [lambda p: os.mkfifo(p), lambda p: p.mkdir(), lambda p: p.symlink_to("/etc/passwd")]
)
def test_a_lock_s_name_that_is_taken(tmp_path: Path, place: Callable[[Path], None]) -> None:
    place(tmp_path / "out.lock")
    with pytest.raises(ResourceError, match="cannot write"), held(tmp_path / "out"):
        pass


def test_a_file_system_without_locks_is_refused_for_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: refuse("ENOLCK")(tmp_path))
    with pytest.raises(ResourceError) as caught, held(tmp_path / "out"):
        pass
    assert caught.value.code == "E-LOCK-FS"
    with publish(tmp_path / "run", MARK) as new:  # within a run that is held already
        put(new / MARK, b"new")
    assert (tmp_path / "run" / MARK).read_text() == "new"


def test_what_a_killed_process_left_in_the_system_s_folder_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"{PREFIX}{0:032x}").mkdir()
    with scratch() as folder:
        assert left(tmp_path) == [folder.name]
    assert left(tmp_path) == []


# a run's own folder


def replaced(out: Path) -> None:
    shutil.copytree(out, out.with_name("copy"))
    shutil.rmtree(out)
    out.with_name("copy").rename(out)


LOST: list[Callable[[Path], object]] = [
    shutil.rmtree,
    lambda out: out.rename(out.with_name("moved")),
    replaced,
]


@pytest.mark.parametrize("step", [3, 10])
@pytest.mark.parametrize("lose", LOST, ids=["removed", "moved", "replaced"])
def test_a_run_folder_that_is_lost_while_training_ends_the_run(
    tmp_path: Path, lose: Callable[[Path], object], step: int
) -> None:
    out = tmp_path / "run"
    with pytest.raises(ResourceError) as caught:
        go(out, steps=20, every=10, progress=at(step, lambda: lose(out)))
    assert (caught.value.code, caught.value.exit_code) == ("E-RUN-GONE", 7)


def lines_that_write(path: Path) -> Iterator[str]:
    source = path.read_text()
    for node in ast.walk(ast.parse(source)) if ".write_" in source else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            if name in ("write_bytes", "write_text"):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {name}"


ELSEWHERE = {  # private folders of children and tests of runtimes, that nobody publishes
    "edgegen/core/graph_file.py",
    "edgegen/machine/probe.py",
    "edgegen/workflows/lint.py",
    "edgegen/machine/providers.py",
    "export/engine.py",
    "export/cache.py",  # its secret
    "export/door.py",
    "export/trial.py",
    "export/tensorrt.py",
}


def test_nothing_is_written_past_the_points() -> None:
    """core/files.py alone writes what users keep."""
    guilty = [line for path in our_modules().values() for line in lines_that_write(path)]
    assert [line for line in guilty if line.partition(":")[0] not in ELSEWHERE] == []
