"""Time a bundle's sampler step on this machine, in INT8 and in FP32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.progress import Listener, silent
from ..core.reader import Places
from ..core.runtime import Pipeline, placement
from ..errors import RuntimeMissing
from ..evidence import bench as timing
from ..export import runtime
from .bench_report.candidates import cannot_be_timed
from .bundles import read_bundle
from .executor import label
from .limits import Limit, check_numbers


@dataclass(frozen=True)
class BenchSettings:
    """Say what is timed and how; `trust_engines` lets unsigned GPU engines of the bundle run."""

    batch: int = 8  # images in a call
    rounds: int = 25  # timed rounds, interleaved over all candidates; 5 or more
    threads: int = 1  # CPU threads of each runtime
    public_key: Places = None  # refuse a bundle that no owner of these keys signed
    trust_engines: bool = False
    least_release: int | None = None  # refuse what was signed as an older release

    def __post_init__(self) -> None:
        check_numbers(self, threads=Limit(1, 1024))


@dataclass(frozen=True)
class BenchResult:
    """Hold the latency of each candidate, such as "openvino INT8", and why other runtimes were
    skipped.
    """

    bundle: str
    settings: BenchSettings
    latency: Mapping[str, timing.Latency]
    skipped: Mapping[str, str]
    placement: Mapping[str, Mapping[str, Mapping[str, int]]]

    @property
    def fastest_full(self) -> float | None:
        """Return the CPU milliseconds of the fastest FP32 candidate, or None if none ran."""
        full = [t.cpu_ms for name, t in self.latency.items() if name.endswith("FP32")]
        return min(full, default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the document that `edgegen bench --json` prints, without its outer frame."""
        return {
            "bundle": self.bundle,
            "latency": {name: t.to_json() for name, t in self.latency.items()},
            "skipped": dict(self.skipped),
            "placement": {name: dict(places) for name, places in self.placement.items()},
        }


def bench_bundle(
    bundle: str | Path, settings: BenchSettings | None = None, listen: Listener = silent
) -> BenchResult:
    """Time the mean sampler step on every runtime of a bundle, FP32 and INT8, interleaved.

    Raises RuntimeMissing if no runtime of the bundle runs here, and InputError or TrustError if the
    folder is not a sound bundle.
    """
    settings = settings or BenchSettings()
    opened = read_bundle(bundle, settings.public_key, settings.least_release)
    candidates: dict[str, Pipeline] = {}
    skipped: dict[str, str] = {}
    for name in opened.manifest.runtimes:
        target = runtime(name)
        why = cannot_be_timed(opened, target, settings.trust_engines)
        if why:
            skipped[name] = why
            continue
        candidates[label(name)] = opened.pipeline(
            target, "int8", settings.threads, trust_engines=settings.trust_engines
        )
        if not target.executable and target.dialect.int8_ops:
            candidates[f"{name} FP32"] = opened.pipeline(target, "fp32", settings.threads)
    if not candidates:
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise RuntimeMissing("E-BACKEND", reasons, path=bundle)
    with listen.progress("timing"):
        recorded = timing.record(next(iter(candidates.values())), range(settings.batch))
        times = timing.latencies(candidates, recorded, settings.threads, settings.rounds)
    placed = {name: placement(pipeline.call) for name, pipeline in candidates.items()}
    return BenchResult(str(bundle), settings, times, skipped, placed)
