"""A bit that is flipped and a file that is cut, in whichever file of a run folder: each reader of
the run refuses it, goes on from the checkpoint before and says so, or gives what it gave before.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import adapters
import numpy as np
import pytest
from adapting import PEFT
from runs import PHOTOS, TOY, nothing, settings
from safetensors.numpy import save
from torch import Tensor

from edgegen.core.files import to_json
from edgegen.core.graph import Generator
from edgegen.errors import EdgegenError
from edgegen.evidence import reference
from edgegen.evidence.stopping import Watch
from edgegen.training import checkpoint, digests, lessons, run
from edgegen.workflows.finetune.base import open_base
from edgegen.workflows.finetune.compare import compare_runs
from edgegen.workflows.finetune.merge import merge_adapter
from edgegen.workflows.finetune.periodic_eval import FILE, PICTURES, _kept, pictures
from edgegen.workflows.generators import load_generator
from edgegen.workflows.initial import open_initial
from edgegen.workflows.photo_sets import REFERENCE

Record = Callable[[str, object], None]
CUTS, FLIPS = 8, 12  # of each file, for each of its readers
STEPS = 4
OLDER = f"step-{STEPS // 2:08d}/"  # nobody reads it while the checkpoint after it is sound
opened: set[str] | None = None  # paths, while somebody wants to know


def note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and opened is not None and isinstance(arguments[0], str | Path):
        opened.add(str(arguments[0]))


class Reader(NamedTuple):
    """What reads a run folder, and gives something that can be compared; changes: the folder."""

    read: Callable[[Path], object]
    changes: bool = False

    def __call__(self, folder: Path) -> object:
        if not self.changes:
            return self.read(folder)
        with copied(folder) as again:
            return self.read(again)

    def files(self, folder: Path) -> set[str]:
        """Names of those that it opens."""
        global opened
        with copied(folder) as again:
            opened = set()
            try:
                self.read(again)
                paths = [Path(path) for path in opened]
            finally:
                opened = None
            return {p.relative_to(again).as_posix() for p in paths if p.is_relative_to(again)}


@contextlib.contextmanager
def copied(folder: Path) -> Iterator[Path]:
    again = shutil.copytree(folder, folder.with_name("again"))
    try:
        yield again
    finally:
        shutil.rmtree(again)


def digest(*data: object) -> str:
    return hashlib.sha256(repr(data).encode()).hexdigest()


def values(tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(checkpoint.to_bytes(dict(tensors))).hexdigest()


def exported(folder: Path) -> object:
    """What an export begins with."""
    found = load_generator(folder)
    assert isinstance(found.generator, Generator)
    drawn = values(found.generator.networks.state_dict())
    return digest(found.about), drawn, reference.read(found.reference).sha256


def base(folder: Path) -> object:
    return values(open_base(str(folder)).tensors)


def start(folder: Path) -> object:
    return values(open_initial(str(folder)).tensors)


def judged() -> run.RunSettings:
    return settings(STEPS, replace(TOY, metric="pdist", metric_weight=1.0))


def left(folder: Path) -> object:
    return values(run.load(folder)[1].networks.state_dict())


def trained_on(folder: Path) -> object:
    """What the run leaves when it goes on; the same from whichever checkpoint."""
    run.train(judged(), PHOTOS, folder, True, STEPS // 2, nothing)
    return left(folder)


def adapted_on(folder: Path) -> object:
    adapters.run("cas-dm", folder, STEPS, True, every=STEPS // 2)
    return left(folder)


def looks(folder: Path) -> object:
    """What a fine-tuning goes on with."""
    return digest(_kept(folder).to_json()), {k: v.tolist() for k, v in pictures(folder).items()}


def compared(folder: Path) -> object:
    picture = folder.with_name("picture.png")
    found = compare_runs([folder], picture)
    return digest(found.runs[0].last), picture.read_bytes()


def merged(folder: Path) -> object:
    out = folder.with_name("merged")
    merge_adapter(folder, out, overwrite=True)
    return {p.name: p.read_bytes() for p in out.iterdir()}


def statistics_in(folder: Path) -> None:
    """As `write_reference` does, but for the network."""
    numbers = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
    network: Any = SimpleNamespace(name="n", sha256="0" * 64, size=32, dim=8)
    data = reference.build(numbers, network, "photos", 4).to_bytes()
    digests.keep(folder, {REFERENCE: data})


def trained_run(folder: Path) -> None:
    """With two checkpoints, and a judge."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lessons, "LESSONS", 2)
        run.train(judged(), PHOTOS, folder, False, STEPS // 2, nothing)
    statistics_in(folder)


def adapted_run(folder: Path) -> None:
    """With what a fine-tuning notes beside its adapter."""
    adapters.run("cas-dm", folder, STEPS, every=STEPS // 2)
    interval = {"value": 1.0, "low": 0.5, "high": 2.0}
    noted = {"watch": Watch().to_json(), "last": {"ratio": interval, "what": "all of it"}}
    shown = {name: np.zeros((2, 8, 8, 3), np.uint8) for name in ("base", "adapted", "photos")}
    digests.keep(folder, {FILE: to_json(noted), PICTURES: save(shown)})
    statistics_in(folder)


RUNS: dict[str, tuple[Callable[[Path], None], tuple[Reader, ...]]] = {
    "trained": (
        trained_run,
        (Reader(exported), Reader(base), Reader(start), Reader(trained_on, changes=True)),
    ),
    "adapted": (
        adapted_run,
        (
            *(Reader(exported), Reader(base), Reader(start), Reader(looks), Reader(compared)),
            *(Reader(merged), Reader(adapted_on, changes=True)),
        ),
    ),
}


def damages(whole: bytes, cuts: int, flips: int) -> Iterator[tuple[str, bytes]]:
    for k in range(cuts):
        yield f"cut at {k}/{cuts}", whole[: len(whole) * k // cuts]
    rng = random.Random(len(whole))
    for _ in range(flips):
        place, bit = rng.randrange(len(whole)), rng.randrange(8)
        data = whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
        yield f"bit {bit} of byte {place}", data


def missed(folder: Path, readers: Sequence[Reader], cuts: int, flips: int) -> tuple[int, list[str]]:
    """How many damages were read, and those that a reader took for what was written, or that broke
    it.
    """
    sound = {reader: (reader(folder), reader.files(folder)) for reader in readers}
    count, bad = 0, []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole, name = path.read_bytes(), path.relative_to(folder).as_posix()
        concerned = [reader for reader in readers if name in sound[reader][1]]
        assert concerned or name.startswith(OLDER), f"nobody reads {name}"
        for what, data in damages(whole, cuts, flips):
            path.write_bytes(data)
            for reader in concerned:
                count += 1
                if fault := told(reader, folder, sound[reader][0]):
                    bad.append(f"{name}, {what}, {reader.read.__name__}: {fault}")
        path.write_bytes(whole)
    assert all(reader(folder) == before for reader, (before, _) in sound.items())
    return count, bad


def told(reader: Reader, folder: Path, before: object) -> str:
    """Nothing where the reader refuses the folder, or gives what it gave before."""
    try:
        return "" if reader(folder) == before else "it gives something else"
    except EdgegenError as error:
        return "" if error.exit_code in (4, 6) else f"exit {error.exit_code}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    sys.addaudithook(note)
    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name) / "run"
            RUNS[name][0](folders[name])
        return folders[name]

    return folder


@pytest.mark.slow
def test_one_bit_of_every_file(made: Callable[[str], Path]) -> None:
    count, bad = missed(made("trained"), RUNS["trained"][1], 0, 1)
    assert bad == [] and count > 12


@PEFT
@pytest.mark.reliability
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(("what", "cuts", "flips"), [("cut", CUTS, 0), ("flipped", 0, FLIPS)])
def test_every_file_and_every_reader(
    name: str,
    what: str,
    cuts: int,
    flips: int,
    made: Callable[[str], Path],
    record_property: Record,
) -> None:
    count, bad = missed(made(name), RUNS[name][1], cuts, flips)
    record_property("reliability", ("run damage", f"{name} {what}", count, len(bad)))
    assert bad == []
