"""Files to evidence: does each runtime compute what its file says, how good are its images, and how
fast is it?

Works on an opened bundle, so that export and verify prove the very files that ship, in the same
way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...cli import output
from ...core.bundle import Bundle
from ...core.fp32_last_steps import rounded
from ...core.images import to_uint8
from ...core.runtime import Pipeline, placement
from ...core.seeds import EVIDENCE
from ...errors import RuntimeMissing
from ...evidence import bench, parity, reference
from ...evidence.compare import Comparison, FullSide, Terms, Trial, compare, first_look
from ...evidence.features import FeatureNetwork, feature_network
from ...export import STAND_IN, runtime
from ..executor import executor, int8

if TYPE_CHECKING:
    from pathlib import Path

    from ...evidence.reference import Reference

REFEREE_SEEDS = range(2)
PIXEL_SEEDS = range(EVIDENCE.first, EVIDENCE.first + 32)


@dataclass(frozen=True)
class Judged:
    """One runtime's evidence."""

    name: str
    executed_by: str  # the runtime itself, or the stand-in
    why: str | None  # why it could not run here
    comparison: Comparison
    psnr: float  # dB that the images must reach as well
    latency: bench.Latency | None
    speed: float | None  # fastest FP32 runtime's time over this one's
    # bytes of INT8 ONNX, and of FP32 ONNX for the last steps, over FP32 ONNX bytes
    size: float
    refereed: Mapping[str, parity.Refereed]
    placement: Mapping[str, Mapping[str, int]]  # graph -> what executed it -> nodes

    @property
    def passed(self) -> bool:
        return self.comparison.verdict.state == "within" and self.comparison.psnr_db >= self.psnr

    def __str__(self) -> str:
        near = (
            ""
            if self.comparison.psnr_db >= self.psnr
            else f", {self.comparison.psnr_db:.1f} dB where {self.psnr:g} are asked"
        )
        return f"{self.name} {self.comparison.verdict}{near}"

    def to_json(self) -> dict[str, Any]:
        return {
            "executed_by": self.executed_by,
            "why": self.why,
            "size_ratio": self.size,
            "speed": self.speed,
            "min_psnr_db": self.psnr,
            "latency": self.latency.to_json() if self.latency else None,
            **self.comparison.to_json(),
            "referee": {k: r.to_json() for k, r in self.refereed.items()},
            "placement": {k: dict(p) for k, p in self.placement.items()},
        }


@dataclass(frozen=True)
class Proof:
    """Everything that was measured on one machine in one run."""

    judged: tuple[Judged, ...]
    full: Mapping[str, bench.Latency]  # FP32 by runtime
    baseline: str  # the fastest of them
    same_pixels: float | None  # between FP32 runtimes; None with only one
    pictures: Mapping[str, np.ndarray]  # a few INT8 images by runtime, and FP32 under ""

    @property
    def passed(self) -> bool:
        return all(j.passed for j in self.judged)

    def again(self, other: Proof) -> Proof:
        """With what `other` says of its runtimes."""
        newer = {j.name: j for j in other.judged}
        judged = tuple(newer.get(j.name, j) for j in self.judged)
        return replace(self, judged=judged, pictures={**self.pictures, **other.pictures})

    def to_json(self) -> dict[str, Any]:
        return {
            "runtimes": {j.name: j.to_json() for j in self.judged},
            "fp32": {name: latency.to_json() for name, latency in self.full.items()},
            "baseline": self.baseline,
            "fp32_same_pixels": self.same_pixels,
        }


def prove(
    bundle: Bundle,
    trials: Mapping[str, Trial],
    terms: Terms,
    threads: int,
    weights: Path | None = None,
    trust_engines: bool = False,
) -> Proof:
    """Judge each runtime of `trials` on its seeds. GateFailed when one computes something else than
    its file or FP32 differs.
    """
    names = list(trials)
    for name in names:
        bundle.built(name)
    if why := runtime(STAND_IN).cannot_run():
        raise RuntimeMissing(
            "E-BACKEND", f"a proof needs {STAND_IN} as host of the FP32 graphs: {why}"
        )
    runners = [n for n in dict.fromkeys([*names, STAND_IN]) if runtime(n).cannot_run() is None]
    of_onnx = [n for n in runners if not runtime(n).executable and runtime(n).dialect.int8_ops]
    fp32 = {n: bundle.pipeline(runtime(n), "fp32", 1) for n in of_onnx}
    recorded = bench.record(next(iter(fp32.values())), range(8))
    agreed = {name: _referee(bundle, name, recorded, trust_engines) for name in names}
    full, own = _latencies(bundle, fp32, names, recorded, trust_engines)
    baseline = min(full, key=lambda n: full[n].cpu_ms)
    side, pixels = _full_side(bundle, baseline, list(fp32), threads, weights)
    sides = {EVIDENCE.first: side}
    judged = []
    for name, trial in trials.items():
        start = trial.first_seed
        mine = sides.setdefault(start, FullSide(side.images, side.features, side.reference, start))
        comparison = _compare(bundle, name, mine, terms, trial.level, threads, trust_engines)
        latency = own.get(name)
        speed = full[baseline].cpu_ms / latency.cpu_ms if latency else None
        judged.append(
            Judged(
                name,
                executor(name),
                runtime(name).cannot_run(),
                comparison,
                terms.psnr,
                latency,
                speed,
                _size(bundle, name),
                agreed[name],
                placement(int8(bundle, name, 1, trust_engines).call),
            )
        )
    seeds = range(EVIDENCE.first, EVIDENCE.first + 10)
    pictures = {n: to_uint8(int8(bundle, n, threads, trust_engines)(seeds)) for n in names}
    return Proof(
        tuple(judged), full, baseline, pixels, {"": side.pixels(0, len(seeds)), **pictures}
    )


def _referee(
    bundle: Bundle, name: str, recorded: Mapping[str, list[dict[str, Any]]], trust_engines: bool
) -> dict[str, parity.Refereed]:
    judge, host = runtime("reference"), runtime(STAND_IN)
    pipeline = int8(bundle, name, 1, trust_engines)
    built = bundle.manifest.runtimes[name]
    half = runtime(name).dialect.floats == "float16"
    found = {}
    for graph, calls in recorded.items():
        few = [
            {k: v[: len(REFEREE_SEEDS)] for k, v in calls[i].items()}
            for i in (0, len(calls) // 2, len(calls) - 1)
        ]
        exact = host.load(bundle.path(bundle.manifest.graphs[graph]), 1)
        found[graph] = parity.referee(
            rounded(pipeline.call[graph]),
            judge.load(bundle.path(built.onnx[graph]), 1),
            exact,
            few,
            half,
        )
    parity.check_referee(name, found)
    return found


def _latencies(
    bundle: Bundle,
    fp32: Mapping[str, Pipeline],
    names: list[str],
    recorded: Mapping[str, list[dict[str, Any]]],
    trust_engines: bool,
) -> tuple[dict[str, bench.Latency], dict[str, bench.Latency]]:
    """One thread, batch 8, the mean step: FP32 by runtime, INT8 by runtime; all in one interleaved
    run.
    """
    running = [n for n in names if executor(n) == n]
    candidates = {f"{n} fp32": p for n, p in fp32.items()}
    candidates |= {
        f"{n} int8": bundle.pipeline(runtime(n), "int8", 1, trust_engines=trust_engines)
        for n in running
    }
    times = bench.latencies(candidates, recorded, threads=1)
    return {n: times[f"{n} fp32"] for n in fp32}, {n: times[f"{n} int8"] for n in running}


def _full_side(
    bundle: Bundle, baseline: str, runners: list[str], threads: int, weights: Path | None
) -> tuple[FullSide, float | None]:
    stored, network = judge_of(bundle.path("evidence/reference.safetensors"), weights)
    images = {
        n: bundle.pipeline(runtime(n), "fp32", threads) for n in dict.fromkeys([baseline, *runners])
    }
    sets = [to_uint8(p(PIXEL_SEEDS)) for p in images.values()]
    shares = [parity.same_pixels(sets[0], other) for other in sets[1:]]
    for name, share in zip(list(images)[1:], shares, strict=True):
        parity.check_pixels(baseline, name, share)
    return FullSide(images[baseline], network, stored), min(shares, default=None)


def judge_of(path: Path, weights: Path | None) -> tuple[Reference, FeatureNetwork]:
    """The reference statistics in a file and the feature network they were made with;
    ReferenceMismatch if `weights` differ.
    """
    stored = reference.read(path)
    network = feature_network(stored.network, weights, stored.size)
    stored.check(network)
    return stored, network


def _compare(
    bundle: Bundle,
    name: str,
    side: FullSide,
    terms: Terms,
    level: float,
    threads: int,
    trust_engines: bool,
) -> Comparison:
    pipeline = int8(bundle, name, threads, trust_engines)
    first = min(terms.maximum, first_look(side.reference))
    label = f"verdict of {name}" + ("" if executor(name) == name else f" (executed by {STAND_IN})")
    done = 0
    with output.progress(label, terms.maximum) as advance:

        def progress(now: int, _: int) -> None:
            nonlocal done
            advance(now - done)
            done = now

        return compare(side, pipeline, terms.budget, first, terms.maximum, level, progress)


def _size(bundle: Bundle, name: str) -> float:
    """Of all that the device holds: INT8, and what runs in FP32 at the last steps."""
    built, files = bundle.manifest.runtimes[name], bundle.manifest.files
    full = {graph: files[f].bytes for graph, f in bundle.manifest.graphs.items()}
    return (
        sum(files[f].bytes for f in built.onnx.values()) + sum(full[g] for g in built.until)
    ) / sum(full.values())
