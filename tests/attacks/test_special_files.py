"""A path may name a pipe that nobody writes into, a device, a socket, a folder, a link or a file
that is too large: every reader says so, at once.
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attacks.attack import TOY, attacked, copy, no_hang
from edgegen.core import images, reader
from edgegen.core.answer_cache import Notes
from edgegen.core.bundle import Bundle
from edgegen.core.files import read_json
from edgegen.core.graph_file import GraphFile
from edgegen.core.keys import private_key, site_keys
from edgegen.core.plan import Plan
from edgegen.errors import EdgegenError
from edgegen.evidence import reference
from edgegen.explain.regions import regions
from edgegen.workflows.export import feeds
from edgegen.workflows.lint import lint_model

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def socket_file(tmp_path: Path) -> Iterator[Path]:
    with closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(str(tmp_path / "s"))
        yield tmp_path / "s"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def sparse(folder: Path) -> Path:
    """4 TB that take no room."""
    with open(folder / "sparse", "wb") as file:
        file.truncate(4 << 40)
    return folder / "sparse"


def linked(folder: Path) -> Path:
    (folder / "link").symlink_to(pipe(folder))
    return folder / "link"


def around(folder: Path) -> Path:
    (folder / "circle").symlink_to(folder / "circle")
    return folder / "circle"


def within(folder: Path) -> Path:
    (folder / "file").write_bytes(b"x")
    return folder / "file" / "beneath"


def forbidden(folder: Path) -> Path:
    (folder / "closed").write_bytes(b"x")
    (folder / "closed").chmod(0)
    if os.access(folder / "closed", os.R_OK):
        pytest.skip("this user may read everything")
    return folder / "closed"


SPECIAL: dict[str, Callable[[Path], Path]] = {
    "pipe": pipe,
    "link to a pipe": linked,
    "link to itself": around,
    "zeros": lambda folder: Path("/dev/zero"),
    "random numbers": lambda folder: Path("/dev/urandom"),
    "terminal": lambda folder: Path("/dev/tty"),
    "4 TB": sparse,
    "folder": lambda folder: folder,
    "nothing": lambda folder: folder / "none",
    "beneath a file": within,
    "a name too long": lambda folder: folder / ("a" * 5000),
    "a null": lambda folder: folder / "a\0b",
    "closed": forbidden,
    "memory": lambda folder: Path("/proc/self/mem"),
}
GRAPHS = SimpleNamespace(graphs=dict)
READERS: dict[str, Callable[[Path], Any]] = {
    "a document": read_json,
    "a plan": Plan.read,
    "statistics": reference.read,
    "a public key": lambda path: site_keys([path]),
    "a private key": lambda path: private_key(path, None),
    "a graph": lambda path: GraphFile.made_here(path).data(),
    "a picture": lambda path: images.read(path, (3, 4, 4)),
    "a mask": lambda path: regions(str(path), 8, 8),
    "feeds": lambda path: feeds._archive(path).__enter__(),
    "a linted model": lambda path: lint_model(path, ["openvino"]),
    "a hash": reader.sha256,
}
pytest.importorskip("cryptography", reason="signatures need the extra sign")


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("what", READERS)
def test_every_reader_says_so_at_once(what: str, special: str, tmp_path: Path) -> None:
    if special == "folder" and what == "a public key":
        pytest.skip("a folder of keys is one that is meant")
    path = SPECIAL[special](tmp_path)
    with no_hang(), pytest.raises(EdgegenError) as caught:
        READERS[what](path)
    assert caught.value.exit_code in (2, 4)


@pytest.mark.parametrize("what", READERS)
def test_a_socket_is_no_file(what: str, socket_file: Path) -> None:
    with no_hang(), pytest.raises(EdgegenError, match=r"not a file|no such file"):
        READERS[what](socket_file)


@pytest.mark.parametrize("special", ["pipe", "zeros", "4 TB", "folder", "nothing"])
@pytest.mark.parametrize("verb", ["generate", "verify", "sign", "lint", "plan", "build", "bench"])
def test_the_verbs_say_so_too(
    verb: str, special: str, tmp_path: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (place := tmp_path / "given").mkdir()
    path = str(SPECIAL[special](place))
    arguments = {
        "generate": ["generate", str(TOY), "-o", "o.png", "--public-key", path],
        "verify": ["verify", str(TOY), "--files-only", "--public-key", path],
        "sign": ["sign", str(TOY), "--key", path, "--overwrite"],
        "lint": ["lint", path, "--runtime", "openvino"],
        "plan": ["plan", "show", path],
        "build": ["build", path],
        "bench": ["bench", path],
    }
    attacked(arguments[verb], capfd, (2, 4))
    assert [p.name for p in tmp_path.iterdir()] == ["given"]


@pytest.mark.parametrize(
    "special", ["pipe", "link to a pipe", "zeros", "4 TB", "folder", "nothing"]
)
@pytest.mark.parametrize("name", ["manifest.json", "model.sig", "README.md", "graphs/theta.onnx"])
def test_a_bundle_with_such_a_file_is_refused(name: str, special: str, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(TOY, root := tmp_path / "bundle")
    (root / name).unlink()
    (place := tmp_path / "given").mkdir()
    made = SPECIAL[special](place)
    if special in ("zeros", "link to a pipe"):
        (root / name).symlink_to(made)
    elif special == "folder":
        (root / name).mkdir()
    elif special != "nothing":
        made.rename(root / name)
    with no_hang(), pytest.raises(EdgegenError) as caught:
        Bundle.open(root, site_keys(TOY.with_name("bundle-1-toy.pub.pem")))
    assert caught.value.exit_code in (4, 6)


def test_a_name_in_a_bundle_that_is_a_pipe_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exchanged between the look at the folder and the opening of the file."""
    root = copy(tmp_path)
    real = os.scandir

    def scan(place: Any) -> Any:
        found = real(place)
        if isinstance(place, int) and (root / "README.md").is_file():
            entries = list(found)
            for entry in entries:
                entry.is_file(follow_symlinks=False)  # it remembers
            (root / "README.md").unlink()
            os.mkfifo(root / "README.md")
            return closing_list(entries)
        return found

    monkeypatch.setattr(os, "scandir", scan)
    with no_hang(), pytest.raises(EdgegenError, match=r"README\.md: not a file"):
        Bundle.open(root)


class closing_list(list[Any]):
    def __enter__(self) -> closing_list:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_file_that_grows_while_it_is_read_has_the_same_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a" * 10)
    assert reader.read_bytes(path, 10) == b"a" * 10
    monkeypatch.setattr(os, "fstat", lambda fd, real=os.fstat: Grown(real(fd)))
    path.write_bytes(b"a" * 11)
    with pytest.raises(EdgegenError, match="larger than 10 bytes"):
        reader.read_bytes(path, 10)


class Grown:
    """A file that said it was empty, as those of the kernel do."""

    def __init__(self, facts: os.stat_result) -> None:
        self.st_mode, self.st_size = facts.st_mode, 0


def test_notes_of_a_cache_that_are_no_file(tmp_path: Path) -> None:
    with no_hang(), pytest.raises(EdgegenError):
        Notes(pipe(tmp_path))


def test_npz_feeds_are_read_as_before(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", x=np.zeros(3, np.float32))
    with feeds._archive(tmp_path / "f.npz") as archive:
        assert archive.namelist() == ["x.npy"]


def test_a_process_that_may_open_no_more_files_says_so(tmp_path: Path) -> None:
    root = copy(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(lowest := os.open(os.devnull, os.O_RDONLY))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 4, before[1]))
        with pytest.raises(EdgegenError, match="E-OPEN-FILES") as caught:
            Bundle.open(root)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert caught.value.exit_code == 7
    Bundle.open(root)
