"""Provide the zoo's generators as bundles, each at its own steps or at those asked for. Missing
bundles are exported one after the other and kept for the next time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...core.files import read_json, to_json, write_bytes
from ...core.progress import Listener
from ...errors import EdgegenError, GateFailed, InputError, UsageError
from ...export import RUNTIMES, runtime
from ...version import __version__
from ..bundles import is_bundle, read_bundle
from ..generators import load_generator, need_torch, zoo_models
from ..sampling_choices import SamplingChoices, chosen

if TYPE_CHECKING:
    from ..generators import LoadedGenerator

# added to a bundle's name: the file that says why its export was refused, so as not to repeat it
FAILED = ".failed.json"
NOTE_BYTES = 1 << 16


@dataclass(frozen=True)
class NotMade:
    """Describe a bundle that was meant to be measured, and say why it does not exist."""

    name: str
    family: str
    source: str
    steps: int | None
    runtimes: Sequence[str]
    state: Literal["failed", "skipped"]
    why: str


@dataclass(frozen=True)
class Wanted:
    """Describe one generator at a number of sampler steps.

    `steps` is None for its own number and `count` the number in either case; `why` says why the
    sampler cannot take them.
    """

    name: str
    source: LoadedGenerator
    steps: int | None
    count: int
    why: str = ""

    def not_made(
        self, runtimes: Sequence[str], state: Literal["failed", "skipped"], why: str
    ) -> NotMade:
        named = str(self.source.about.get("name") or self.source.name)
        return NotMade(
            self.name, self.source.family, named, self.count, runtimes, state, why[:4000]
        )


def zoo_runtimes(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the runtimes to export for: those asked for, or all that can build and run on this
    machine.
    """
    from ..export.run import export_targets

    if names is None:
        able = (name for name in RUNTIMES if name != "reference")
        every = {name: runtime(name) for name in able}
        names = [n for n, one in every.items() if one.missing() is None and not one.cannot_run()]
    return tuple(target.name for target in export_targets(names))


def zoo_bundles(
    work: Path,
    steps: Sequence[int] | None,
    runtimes: Sequence[str] | None,
    listen: Listener,
    sources: Sequence[str] | None = None,
) -> tuple[list[Path], list[NotMade]]:
    """Return the folders of the finished bundles in `work`, and the bundles that could not be made;
    `sources` names the generators, None for those of the zoo.

    A bundle that exists and is whole is not made again. Raises RuntimeMissing without torch or a
    runtime that was asked for, and UsageError if a folder holds something else than it should.
    """
    need_torch()
    targets = zoo_runtimes(runtimes)
    names = [entry.name for entry in zoo_models()] if sources is None else sources
    places: list[Path] = []
    absent: list[NotMade] = []
    for name in names:
        for wanted in _wanted(load_generator(name, listen), steps):
            if wanted.why:
                absent.append(wanted.not_made(targets, "skipped", wanted.why))
                continue
            found = _made(wanted, work / wanted.name, targets, listen)
            if isinstance(found, Path):
                places.append(found)
            else:
                absent.append(found)
    return places, absent


def _wanted(source: LoadedGenerator, steps: Sequence[int] | None) -> Iterator[Wanted]:
    """Yield the generator at each number of steps; only other numbers than its own appear in the
    bundle's name.
    """
    own = len(source.generator.sampler.timesteps)
    for count in dict.fromkeys(steps or (own,)):
        if count == own:
            yield Wanted(source.name, source, None, count)
            continue
        name = f"{source.name}-{count}-step{'' if count == 1 else 's'}"
        try:
            chosen(source, SamplingChoices(count))
        except UsageError as error:
            yield Wanted(name, source, count, count, f"{error.code}: {error.message}")
        else:
            yield Wanted(name, source, count, count)


def _made(wanted: Wanted, out: Path, runtimes: Sequence[str], listen: Listener) -> Path | NotMade:
    from ..export.run import ExportSettings, export_bundle

    is_there = is_bundle(out)
    if is_there and _is_whole(wanted, out, runtimes):
        return out
    note = out.with_name(out.name + FAILED)
    tried = _Tried(wanted, runtimes)
    if why := tried.read(note):
        listen.note(f"{wanted.name}: not exported again, {note.name} says why it was refused")
        return wanted.not_made(runtimes, "failed", why)
    listen.note(f"{wanted.name}: exporting into {out}")
    settings = ExportSettings(runtimes=tuple(runtimes), steps=wanted.steps, overwrite=is_there)
    try:
        export_bundle(wanted.source, out, settings, listen)
    except (GateFailed, InputError) as error:
        why = f"its export: {_said(error)}"
        # a failed gate is the end of a long search, which is worth a note
        if isinstance(error, GateFailed):
            note.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(note, tried.to_bytes(why))
        listen.note(f"{wanted.name}: {why}")
        return wanted.not_made(runtimes, "failed", why)
    note.unlink(missing_ok=True)
    return out


def _said(error: EdgegenError) -> str:
    """Return an error's code and message without its path, because a report goes to others."""
    return f"{error.code}: {error.message}"


def _is_whole(wanted: Wanted, out: Path, runtimes: Sequence[str]) -> bool:
    """Return whether the bundle has files for each runtime.

    Raises UsageError if it is of another generator or of other steps, because it may be somebody's
    own.
    """
    from ...core.samplers import sampler_from_json

    generator, _ = chosen(wanted.source, SamplingChoices(wanted.steps))
    manifest = read_bundle(out).manifest
    key = "weights_sha256"
    same = manifest.source.get(key) == wanted.source.about.get(key)
    if not same or sampler_from_json(manifest.sampler) != generator.sampler:
        raise UsageError(
            "E-USAGE",
            f"the folder contains a bundle that is not {wanted.source.name} with {wanted.count} "
            "steps from this version of edgegen",
            path=out,
            hint="give another folder with --work, or remove this one",
        )
    return set(runtimes) <= manifest.runtimes.keys()


@dataclass(frozen=True)
class _Tried:
    """Keep a note of an export that was refused, because the same export would be refused again."""

    wanted: Wanted
    runtimes: Sequence[str]

    @property
    def facts(self) -> dict[str, object]:
        return {
            "edgegen": __version__,
            "weights_sha256": self.wanted.source.about.get("weights_sha256"),
            "steps": self.wanted.count,
            "runtimes": sorted(self.runtimes),
        }

    def to_bytes(self, why: str) -> bytes:
        return to_json({**self.facts, "why": why})

    def read(self, note: Path) -> str:
        """Return why this export was refused, or "" if the note is of another export or missing."""
        if not note.is_file():
            return ""
        found = read_json(note, NOTE_BYTES)
        if not isinstance(found, dict) or not isinstance(why := found.pop("why", None), str):
            return ""
        return why if found == self.facts else ""
