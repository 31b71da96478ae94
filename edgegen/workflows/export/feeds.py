"""Provide the inputs that a calibration uses: those of the sampler's own trajectories, or those of
each graph from files.
"""

from __future__ import annotations

import itertools
import zipfile
import zlib
from collections.abc import Callable, Mapping
from collections.abc import Generator as Generated
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...core.progress import Listener, silent
from ...core.reader import opened
from ...core.runtime import Pipeline
from ...core.samplers import asked, told
from ...core.seeds import CALIBRATION, USES
from ...core.spec import Array, TensorSpec
from ...errors import InputError, UsageError
from ...training.processes import ALONE, World
from .feed_values import FeedValues

if TYPE_CHECKING:
    from ...core.graph import Exportable

# Memory grows with the inputs at a time. Processes share whole batches, so that their number does
# not change any result.
BATCH = 8
Call = Mapping[str, Callable[..., Array]]


class Feeds(Protocol):
    """Provide the same inputs each time they run; `samples` counts seeds, or the rows of
    all files.
    """

    @property
    def samples(self) -> int: ...
    def run(self, call: Call, label: str) -> None:
        """Give this process's share of the inputs to the graphs."""

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Trajectories:
    """Run the calibration seeds through every timestep that the sampler will ever visit.

    Raises UsageError for more samples than there are calibration seeds.
    """

    generator: Exportable
    samples: int
    world: World = ALONE
    listen: Listener = silent
    batch: int = BATCH

    def __post_init__(self) -> None:
        CALIBRATION.take(self.samples)
        bank = self.generator.latent.prompts
        if bank is not None and bank.is_shared:
            self.listen.note(
                f"W-PROMPTS-FEW: of {bank.choices} prompts calibration, search and verdict see the "
                f"same; with {len(USES)} or more each has its own"
            )

    def run(self, call: Call, label: str) -> None:
        pipeline = Pipeline(self.generator.latent, self.generator.sampler, call, self.batch)
        batches = range(0, self.samples, self.batch)
        _shareable(len(batches), self.batch, self.world)
        with self.listen.progress(label, self.samples) as advance:
            for start in batches[self.world.rank :: self.world.size]:
                seeds = CALIBRATION.take(min(self.batch, self.samples - start), start)
                pipeline(seeds)
                advance(len(seeds) * self.world.size)

    def to_json(self) -> dict[str, Any]:
        return {"feeds": "the sampler's own trajectory", "seeds": f"0 to {self.samples - 1}"}


@dataclass(frozen=True)
class _File:
    graph: str
    path: Path
    rows: int


@dataclass(frozen=True)
class Files:
    """Read FEEDS/GRAPH/*.npz in the order of their names: arrays named like the graph's inputs,
    with rows along the first axis.

    Nothing is unpickled, and rows are read one batch at a time.
    """

    folder: Path
    generator: Exportable
    world: World = ALONE
    listen: Listener = silent
    batch: int = BATCH
    files: tuple[_File, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Check all files before any work. Raises InputError, which names the first thing that does
        not fit.
        """
        if not self.folder.is_dir():
            raise InputError("E-FEEDS", "there is no such folder of feeds", path=self.folder)
        graphs = self.generator.graphs()
        found: list[_File] = []
        for place in sorted(p for p in self.folder.iterdir() if not p.name.startswith(".")):
            if place.name not in graphs or not place.is_dir():
                raise InputError(
                    "E-FEEDS",
                    f"no graph is named so; the graphs are {', '.join(graphs)}",
                    path=place,
                )
        for name, graph in graphs.items():
            paths = sorted(p for p in (self.folder / name).glob("*") if not p.name.startswith("."))
            if not paths:
                raise InputError(
                    "E-FEEDS", f"the graph {name} has no .npz files", path=self.folder / name
                )
            found += [_File(name, path, _checked(path, name, graph.inputs)) for path in paths]
        object.__setattr__(self, "files", tuple(found))

    @property
    def samples(self) -> int:
        return sum(file.rows for file in self.files)

    def run(self, call: Call, label: str) -> None:
        graphs, turns = self.generator.graphs(), itertools.count()
        _shareable(
            min(
                sum(-(-f.rows // self.batch) for f in self.files if f.graph == name)
                for name in graphs
            ),
            self.batch,
            self.world,
        )
        values = FeedValues(self.generator)
        with self.listen.progress(label, self.samples) as advance:
            for file in self.files:
                times, row = tuple(map(told, asked(self.generator.sampler, file.graph))), 0
                inputs_of = graphs[file.graph].inputs
                with closing(_batches(file, inputs_of, times, self.batch)) as batches:
                    for inputs in batches:
                        values.look(file.graph, inputs, row, file.path)
                        row += len(next(iter(inputs.values())))
                        if next(turns) % self.world.size == self.world.rank:
                            call[file.graph](**inputs)
                        advance(len(next(iter(inputs.values()))))
        values.end(self.folder)

    def to_json(self) -> dict[str, Any]:
        from ...core.bundle import sha256

        return {
            "feeds": "files",
            "files": {f"{f.graph}/{f.path.name}": sha256(f.path) for f in self.files},
        }


def _shareable(batches: int, batch: int, world: World) -> None:
    if batches < world.size:
        raise UsageError(
            "E-PROCESSES",
            f"{world.size} processes cannot share {batches} batches of {batch} inputs",
        )


def _checked(path: Path, graph: str, inputs: tuple[TensorSpec, ...]) -> int:
    """Return the number of rows in one file. Raises InputError unless its arrays are the graph's
    inputs.
    """
    wanted = {spec.name: spec for spec in inputs}
    with _archive(path) as archive:
        names = set(archive.namelist())
        if names != {f"{name}.npy" for name in wanted}:
            held = ", ".join(sorted(name.removesuffix(".npy") for name in names)) or "nothing"
            raise InputError(
                "E-FEEDS", f"{graph} takes {', '.join(wanted)}; the file has {held}", path=path
            )
        rows = {name: _header(archive, name, spec, path) for name, spec in wanted.items()}
    if len(set(rows.values())) > 1 or not min(rows.values()):
        raise InputError(
            "E-FEEDS", f"the arrays must have the same rows, one or more, got {rows}", path=path
        )
    return next(iter(rows.values()))


class _archive:
    """Open an .npz file; any fault of it, inside the block too, becomes an InputError with its
    path.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> zipfile.ZipFile:
        with ExitStack() as stack:
            stream = stack.enter_context(opened(self._path, "E-FEEDS"))
            try:
                self._file = stack.enter_context(zipfile.ZipFile(stream))
            except (OSError, zipfile.BadZipFile) as error:
                raise InputError(
                    "E-FEEDS", f"no .npz file that can be read: {error}", path=self._path
                ) from error
            self._held = stack.pop_all()
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._held.close()
        if isinstance(
            error, OSError | EOFError | zipfile.BadZipFile | zlib.error | RuntimeError | ValueError
        ):
            raise InputError(
                "E-FEEDS", f"no .npz file that can be read: {error}", path=self._path
            ) from error


def _header(archive: zipfile.ZipFile, name: str, spec: TensorSpec, path: Path) -> int:
    """Check one array's header, without its values, and return the number of rows."""
    with archive.open(f"{name}.npy") as stream:
        shape, fortran, dtype = _read_header(stream)
        body = archive.getinfo(f"{name}.npy").file_size - stream.tell()
    row = spec.sized(batch=1)[1:]
    if dtype != np.dtype(spec.dtype):
        raise InputError("E-FEEDS", f"{name} must be {spec.dtype}, got {dtype}", path=path)
    if not shape or shape[1:] != row:
        raise InputError(
            "E-FEEDS",
            f"{name} must have the shape {('n', *row)}, got {shape}".replace("'", ""),
            path=path,
        )
    if fortran:
        raise InputError(
            "E-FEEDS",
            f"{name} is stored column by column",
            path=path,
            hint="np.ascontiguousarray before saving",
        )
    if body != shape[0] * int(np.prod(row)) * dtype.itemsize:
        raise InputError("E-FEEDS", f"{name} is not as long as its header says", path=path)
    return int(shape[0])


def _read_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(stream)
    return shape, fortran, dtype


def _batches(
    file: _File, inputs: tuple[TensorSpec, ...], times: tuple[float, ...], batch: int
) -> Generated[dict[str, Array], None, None]:
    """Yield the rows of one file, `batch` at a time.

    Raises InputError for values that are not finite and for timesteps at which the sampler never
    runs the graph.
    """
    with _archive(file.path) as archive, ExitStack() as stack:
        streams = {
            spec.name: stack.enter_context(archive.open(f"{spec.name}.npy")) for spec in inputs
        }
        for stream in streams.values():
            _read_header(stream)
        for start in range(0, file.rows, batch):
            count = min(batch, file.rows - start)
            read = {spec.name: _rows(streams[spec.name], spec, count) for spec in inputs}
            for name, values in read.items():
                if not np.isfinite(values).all():
                    raise InputError(
                        "E-FEEDS",
                        f"{name} holds NaN or infinite values in rows {start} to "
                        f"{start + count - 1}",
                        path=file.path,
                    )
            if "t" in read and (other := set(read["t"].tolist()) - set(times)):
                raise InputError(
                    "E-FEEDS",
                    f"t holds {min(other):g}, at which the sampler never runs {file.graph}",
                    path=file.path,
                    hint=f"it does at {', '.join(f'{time:.9g}' for time in times)}",
                )
            yield read


def _rows(stream: Any, spec: TensorSpec, count: int) -> Array:
    shape = (count, *spec.sized(batch=1)[1:])
    wanted = int(np.prod(shape)) * np.dtype(spec.dtype).itemsize
    found: Array = np.frombuffer(stream.read(wanted), spec.dtype).reshape(shape)
    return found
