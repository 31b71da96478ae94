"""Prove a bundle's files: does each runtime compute what its file says, how good are its images,
and how fast is it?

It works on an opened bundle, so that export and verify prove the very files that ship in the same
way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.bundle import Bundle
from ...core.fp32_last_steps import int8_session
from ...core.images import to_uint8
from ...core.progress import Advance, Listener
from ...core.runtime import Pipeline, placement
from ...core.seeds import EVIDENCE
from ...core.side_by_side import over_workers
from ...core.spec import Array
from ...errors import RuntimeMissing
from ...evidence import bench, parity, reference
from ...evidence.classes import class_names
from ...evidence.compare import Comparison, Progress
from ...evidence.full_side import FullSide
from ...evidence.judge import Judgement, counted_reference, judge
from ...evidence.terms import Terms, Trial
from ...export import STAND_IN, executing, runtime
from ..executor import executor, int8
from ..fast_features import fast_features
from .judges import judge_of
from .referee import refereed_layers

if TYPE_CHECKING:
    from ...evidence.reference import Reference
    from ..context import Context

REFERENCE = "evidence/reference.safetensors"
TIMED_IMAGES = 8  # images in a timed batch
REFEREED_IMAGES = 2  # images that the reference evaluator computes
COMPARED_IMAGES = 32  # images whose pixels the FP32 runtimes must agree on
PICTURED = 10  # images in the bundle's picture


@dataclass(frozen=True)
class RuntimeEvidence:
    """Hold the evidence for one runtime."""

    name: str
    executed_by: str  # the runtime itself, or the stand-in
    why: str | None  # why the runtime itself could not run here
    judgement: Judgement
    latency: bench.Latency | None
    speed: float | None  # time of the fastest FP32 runtime over this one's
    # bytes of INT8 ONNX, with the FP32 ONNX of the last steps, over the bytes of FP32 ONNX
    size: float
    refereed: Mapping[str, parity.Refereed]
    placement: Mapping[str, Mapping[str, int]]  # graph -> what executed it -> nodes

    @property
    def comparison(self) -> Comparison:
        return self.judgement.comparison

    @property
    def passed(self) -> bool:
        return self.judgement.state == "within"

    def __str__(self) -> str:
        counted = self.comparison.verdict if self.comparison.is_counted else self.judgement.state
        return f"{self.name} {'; '.join(self.judgement.failures()) or counted}"

    def to_json(self) -> dict[str, Any]:
        return {
            "executed_by": self.executed_by,
            "why": self.why,
            "size_ratio": self.size,
            "speed": self.speed,
            "min_psnr_db": self.judgement.terms.psnr,
            "latency": self.latency.to_json() if self.latency else None,
            **self.judgement.to_json(),
            "referee": {k: r.to_json() for k, r in self.refereed.items()},
            "placement": {k: dict(p) for k, p in self.placement.items()},
        }


@dataclass(frozen=True)
class Proof:
    """Hold everything that was measured on one machine in one run."""

    judged: tuple[RuntimeEvidence, ...]
    full: Mapping[str, bench.Latency]  # FP32 latency by runtime
    baseline: str  # the fastest FP32 runtime
    # least share of pixels that FP32 runtimes agree on; None with only one
    same_pixels: float | None
    pictures: Mapping[str, np.ndarray]  # a few INT8 images by runtime, and those of FP32 under ""

    @property
    def passed(self) -> bool:
        return all(j.passed for j in self.judged)

    def again(self, other: Proof) -> Proof:
        """Return this proof with the evidence of the runtimes in `other` in place of its own."""
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
    context: Context,
    trust_engines: bool = False,
    against: Reference | None = None,
) -> Proof:
    """Judge each runtime of `trials` on its seeds, against the bundle's reference or the one of
    `against`.

    Raises GateFailed if a runtime computes something else than its file or the FP32 runtimes
    differ, and RuntimeMissing if the stand-in cannot run.
    """
    for name in trials:
        bundle.built(name)
    if why := runtime(STAND_IN).cannot_run():
        raise RuntimeMissing(
            "E-BACKEND", f"a proof needs {STAND_IN} as host of the FP32 graphs: {why}"
        )
    return _Prover(bundle, terms, context, trust_engines, against).prove(trials)


@dataclass(frozen=True)
class _Prover:
    """Prove one bundle on this machine."""

    bundle: Bundle
    terms: Terms
    context: Context
    trust_engines: bool
    against: Reference | None
    loaded: dict[str, Pipeline] = field(default_factory=dict, repr=False)  # INT8 by runtime

    def prove(self, trials: Mapping[str, Trial]) -> Proof:
        fp32 = self._fp32(trials)
        recorded = bench.record(
            next(iter(fp32.values())), range(min(TIMED_IMAGES, self.context.memory.images))
        )
        reports = over_workers(
            lambda name: self._referee(name, recorded), list(trials), self.context.threads
        )
        refereed = dict(zip(trials, reports, strict=True))
        full, own = self._latencies(fp32, list(trials), recorded)
        baseline = min(full, key=lambda name: full[name].cpu_ms)
        side, same_pixels = self._full_side(baseline, fp32)
        side.kept_bytes = self.context.memory.pixels_bytes // len(trials)
        sides = {EVIDENCE.first: side}
        judged = []
        for name, trial in trials.items():
            start = trial.first_seed
            mine = sides.setdefault(start, side.from_seed(start))
            latency = own.get(name)
            judged.append(
                RuntimeEvidence(
                    name=name,
                    executed_by=executor(name),
                    why=runtime(name).cannot_run(),
                    judgement=self._judge(name, mine, trial),
                    latency=latency,
                    speed=full[baseline].cpu_ms / latency.cpu_ms if latency else None,
                    size=_size(self.bundle, name),
                    refereed=refereed[name],
                    placement=placement(self._int8(name).call),
                )
            )
        seeds = EVIDENCE.take(PICTURED)
        pictures = {name: to_uint8(self._int8(name)(seeds)) for name in trials}
        pictures = {"": side.pixels(0, PICTURED), **pictures}
        return Proof(tuple(judged), full, baseline, same_pixels, pictures)

    def _int8(self, name: str) -> Pipeline:
        """Return the INT8 pipeline, loaded once, on one thread: long work runs several of its
        batches at once.
        """
        if name not in self.loaded:
            made = int8(self.bundle, name, 1, self.trust_engines)
            self.loaded[name] = replace(made, batch=self.context.memory.images)
        return self.loaded[name]

    def _fp32(self, names: Iterable[str]) -> dict[str, Pipeline]:
        """Return the FP32 pipelines of these runtimes and the stand-in, as far as they run ONNX
        here.
        """
        runners = [n for n in dict.fromkeys([*names, STAND_IN]) if runtime(n).cannot_run() is None]
        return {
            n: self.bundle.pipeline(runtime(n), "fp32", 1, self.context.memory.images)
            for n in runners
            if not runtime(n).executable and runtime(n).dialect.int8_ops
        }

    def _referee(
        self, name: str, recorded: Mapping[str, list[dict[str, Array]]]
    ) -> dict[str, parity.Refereed]:
        """Compare each graph with the ONNX reference evaluator on its first, middle and last call;
        of a large graph, compare a sample of its layers.
        """
        judge, host = runtime("reference"), runtime(STAND_IN)
        pipeline, bundle = self._int8(name), self.bundle
        built = bundle.manifest.runtimes[name]
        half = runtime(name).dialect.floats == "float16"
        found = {}
        for graph, calls in recorded.items():
            file = bundle.graph_file(built.onnx[graph])
            if file.weights is not None:
                middle = calls[len(calls) // 2]
                one = {tensor: values[:1] for tensor, values in middle.items()}
                found[graph] = refereed_layers(file, executing(runtime(name)).load, one, half)
                continue
            few = [
                {tensor: values[:REFEREED_IMAGES] for tensor, values in calls[i].items()}
                for i in (0, len(calls) // 2, len(calls) - 1)
            ]
            exact = bundle.sessions(host, {graph: bundle.manifest.graphs[graph]}, 1)[graph]
            quantized = bundle.sessions(judge, {graph: built.onnx[graph]}, 1)[graph]
            found[graph] = parity.referee(
                int8_session(pipeline.call[graph]), quantized, exact, few, half
            )
        parity.check_referee(name, found)
        return found

    def _latencies(
        self,
        fp32: Mapping[str, Pipeline],
        names: list[str],
        recorded: Mapping[str, list[dict[str, Array]]],
    ) -> tuple[dict[str, bench.Latency], dict[str, bench.Latency]]:
        """Time the mean step on one thread, in batches of at most 8, all in one
        interleaved run.

        Returns the latency of FP32 by runtime and that of INT8 by runtime.
        """
        running = [name for name in names if executor(name) == name]
        candidates = {f"{name} fp32": pipeline for name, pipeline in fp32.items()}
        candidates |= {f"{name} int8": self._int8(name) for name in running}
        times = bench.latencies(candidates, recorded, threads=1)
        return {n: times[f"{n} fp32"] for n in fp32}, {n: times[f"{n} int8"] for n in running}

    def _full_side(
        self, baseline: str, fp32: Mapping[str, Pipeline]
    ) -> tuple[FullSide, float | None]:
        """Return the side of the fastest FP32 runtime and the least share of pixels that is equal
        on all of them.

        Raises GateFailed if it is too small.
        """
        stored, bundle = self.against, self.bundle
        if stored is None and self.terms.is_distance_counted:
            stored = reference.parsed(bundle.read(REFERENCE), bundle.path(REFERENCE))
        network = judge_of(stored, self.context.feature_weights)
        images = {name: fp32[name] for name in dict.fromkeys([baseline, *fp32])}
        sets = [to_uint8(pipeline(EVIDENCE.take(COMPARED_IMAGES))) for pipeline in images.values()]
        shares = [parity.same_pixels(sets[0], other) for other in sets[1:]]
        for name, share in zip(list(images)[1:], shares, strict=True):
            parity.check_pixels(baseline, name, share)
        features = fast_features(network)
        latent = images[baseline].latent
        classes = class_names(self.bundle.manifest.source, latent, EVIDENCE.first)
        side = FullSide(
            images[baseline],
            features,
            counted_reference(stored, self.terms),
            workers=self.context.threads,
            classes=classes,
            second=self.context.second_judge,
        )
        return side, min(shares, default=None)

    def _judge(self, name: str, side: FullSide, trial: Trial) -> Judgement:
        executed = "" if executor(name) == name else f" (executed by {executor(name)})"
        labels = {
            self.terms.maximum: f"verdict of {name}{executed}",
            self.terms.pixel_pairs: f"counting ruined images of {name}{executed}",
        }
        with _labelled(self.context.listen, labels) as progress:
            return judge(side, self._int8(name), self.terms, trial, progress)


@contextmanager
def _labelled(listen: Listener, labels: Mapping[int, str]) -> Iterator[Progress]:
    """Yield a progress whose label depends on the number of pairs that is counted to."""
    with ExitStack() as stack:
        advance: Advance | None = None
        done = total = 0

        def progress(now: int, most: int) -> None:
            nonlocal advance, done, total
            if advance is None or most != total:
                stack.close()
                advance = stack.enter_context(listen.progress(labels[most], most, "pairs"))
                done, total = 0, most
            advance(now - done)
            done = now

        yield progress


def _size(bundle: Bundle, name: str) -> float:
    """Return the bytes of all that the device holds (INT8, and the graphs in FP32 at the last
    steps) over the bytes of FP32.
    """
    built, files = bundle.manifest.runtimes[name], bundle.manifest.files
    full = {graph: files[f].bytes for graph, f in bundle.manifest.graphs.items()}
    return (
        sum(files[f].bytes for f in built.onnx.values()) + sum(full[g] for g in built.until)
    ) / sum(full.values())
