"""List what is measured of each bundle: every one of its runtimes, in INT8 and full precision."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...core.files import to_json
from ...core.reader import Places
from ...core.weights import SUFFIX
from ...errors import UsageError
from ...evidence.bench_document import HeldVerdict
from ...evidence.compare import NOT_COUNTED
from ...export import runtime
from ..bundles import read_bundle
from .in_torch import PROGRAMS, TorchProgram

if TYPE_CHECKING:
    from ...core.bundle import Bundle, Precision
    from ...core.runtime import Pipeline, Runtime
    from .peers import MadeByPeer


@dataclass(frozen=True)
class OpenedForBench:
    """Hold a bundle with the name and the path of its folder; `of_zoo`: this bench exported it."""

    name: str
    place: Path
    bundle: Bundle
    of_zoo: bool = False

    @property
    def source(self) -> str:
        """Return the generator's name, or the bundle's if its manifest names no generator."""
        return str(self.bundle.manifest.source.get("name") or self.name)[:300]


@dataclass(frozen=True)
class Candidate:
    """Describe one row of the bench: a bundle on one runtime in one precision.

    `runtime` is the runtime's name or a name of PROGRAMS. `why` says why the candidate is skipped
    and is empty if it runs. `peer` names the toolkit that quantized the graphs, empty for edgegen
    itself, and `made` holds the files which that toolkit wrote.
    """

    opened: OpenedForBench
    runtime: str
    precision: Precision
    why: str = ""
    peer: str = ""
    made: MadeByPeer | None = None

    @property
    def shown(self) -> Literal["int8", "fp32", "fp16"]:
        """Return the precision that the row shows: fp16 for a runtime that has no INT8."""
        if self.precision == "fp32":
            return "fp32"
        return "int8" if has_int8(self.runtime) else "fp16"

    @property
    def label(self) -> str:
        by = f"{self.peer} on " if self.peer else ""
        return f"{by}{self.runtime} {self.shown.upper()}"

    @property
    def name(self) -> str:
        return f"{self.opened.name}: {self.label}"

    @property
    def target(self) -> Runtime | TorchProgram:
        """Return the runtime or the torch program that executes the candidate."""
        return PROGRAMS.get(self.runtime) or runtime(self.runtime)

    def pipeline(self, threads: int, batch: int, trust_engines: bool) -> Pipeline:
        bundle, target = self.opened.bundle, self.target
        if isinstance(target, TorchProgram):
            return target.pipeline(bundle, threads, batch)
        if self.made is not None:
            return self.made.pipeline(bundle, target, threads, batch)
        return bundle.pipeline(target, self.precision, threads, batch, trust_engines)


def has_int8(name: str) -> bool:
    """Return whether the runtime executes any operator in INT8."""
    return bool(runtime(name).dialect.int8_ops)


def opened_bundles(
    places: Sequence[str | Path],
    public_key: Places,
    least_release: int | None,
    of_zoo: Sequence[Path] = (),
) -> list[OpenedForBench]:
    """Open and check the bundles, those in `of_zoo` marked as exported by this bench.

    Raises InputError or TrustError for a folder that is not a sound bundle, and UsageError if two
    bundles have the same name.
    """
    found: dict[str, OpenedForBench] = {}
    for place in (*places, *of_zoo):
        folder = Path(place)
        name = folder.resolve().name
        if name in found:
            raise UsageError(
                "E-USAGE",
                f"two bundles have the name {name}, so their rows could not be distinguished",
                path=place,
                hint="use a copy or a link that has another name",
            )
        bundle = read_bundle(folder, public_key, least_release)
        found[name] = OpenedForBench(name, folder, bundle, place in of_zoo)
    return list(found.values())


def cannot_be_timed(bundle: Bundle, target: Runtime, trust_engines: bool) -> str:
    """Return why a bundle's INT8 files are skipped on this machine, or "" if they run."""
    if why := target.cannot_run():
        return why
    vouched = (
        trust_engines or bundle.signed_by is not None or bool(bundle.built_here(target, "int8"))
    )
    if target.executable and not vouched:
        return (
            "its engines are executable code: run `edgegen build`, or add --trust-engines if you "
            "trust their maker"
        )
    return ""


def candidates_of(
    opened: Sequence[OpenedForBench], runtimes: Sequence[str] | None, trust_engines: bool
) -> list[Candidate]:
    """Return the candidates in the order of the bundles and of their manifests.

    Raises UsageError if a runtime was asked for that no bundle has files for.
    """
    held = {name for one in opened for name in one.bundle.manifest.runtimes}
    for name in runtimes or ():
        runtime(name)
        if opened and name not in held:
            raise UsageError(
                "E-BUNDLE-RUNTIME",
                f"no bundle has INT8 files for {name}; there are {', '.join(sorted(held))}",
            )
    found = []
    for one in opened:
        for name in one.bundle.manifest.runtimes:
            if runtimes is not None and name not in runtimes:
                continue
            target = runtime(name)
            why = cannot_be_timed(one.bundle, target, trust_engines)
            found.append(Candidate(one, name, "int8", why))
            if not why and not target.executable and target.dialect.int8_ops:
                found.append(Candidate(one, name, "fp32"))
    return found


def torch_candidates(opened: Sequence[OpenedForBench]) -> list[Candidate]:
    """Return a full-precision candidate in torch, plain and compiled, for each bundle."""
    return [
        Candidate(one, name, "fp32", program.why_not(one.bundle))
        for one in opened
        for name, program in PROGRAMS.items()
    ]


def full_precision_of(bundle: Bundle) -> str:
    """Return the sha256 of all that determines a bundle's full-precision images: graphs, weights,
    sampler and start.
    """
    manifest = bundle.manifest
    graphs = {}
    for graph, name in manifest.graphs.items():
        beside = f"{name.removesuffix('.onnx')}{SUFFIX}"
        own = (file for file in (name, beside) if file in manifest.files)
        graphs[graph] = [manifest.files[file].sha256 for file in own]
    start = manifest.start.model_dump()
    arrays = start.get("arrays")
    held = manifest.files[arrays].sha256 if arrays in manifest.files else None
    data = {"graphs": graphs, "sampler": manifest.sampler, "start": start, "arrays": held}
    return hashlib.sha256(to_json(data)).hexdigest()


def held_verdict(bundle: Bundle, name: str) -> HeldVerdict | None:
    """Return the verdict that the bundle's evidence holds for a runtime, or None if it has none
    that can be read.
    """
    try:
        found = bundle.manifest.evidence["runtimes"][name]
        change = found["change"]
        is_counted = found["verdict"] != NOT_COUNTED and change["value"] is not None
        return HeldVerdict(
            state=found.get("state", found["verdict"]),
            change=float(change["value"]) if is_counted else None,
            change_low=float(change["low"]) if is_counted else None,
            change_high=float(change["high"]) if is_counted else None,
            features=f"{found['features']} at {found['size']} px",
            pairs=found["images"],
            signed_by=bundle.signed_by,
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
