"""What tests of a bench have in common: a document as one run leaves it, and a toy bundle whose
INT8 is damaged.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgegen.core.bundle import MANIFEST, digest
from edgegen.core.files import read_json, to_json
from edgegen.evidence.bench_document import (
    SCHEMA,
    BenchDocument,
    BenchedBundle,
    BenchRow,
    HeldVerdict,
    OwnProcess,
    PairsHere,
    PeakMemory,
)
from edgegen.evidence.bench_page.images import Pictures
from edgegen.evidence.bench_page.strips import BUDGET, fitting, strip
from edgegen.evidence.bench_rows import latency_of, state_and_why, with_speeds
from edgegen.evidence.image_latency import GRAPH, REST, ImageSample, Spent
from edgegen.evidence.paired_quality import PairLimits, PairSides, pairs_here

TOY = Path(__file__).parent / "golden" / "bundle-1-toy"
NASTY = '<script>alert(1)</script>"&\x1b[31m|`=1'
NAMES = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "onnxruntime-cuda")


def samples(ms: float, scatter: float = 0.01, rounds: int = 25) -> list[ImageSample]:
    """Rounds around a time, three quarters of it in a graph."""
    times = ms * (1 + scatter * np.linspace(-1, 1, rounds))
    return [
        ImageSample(Spent(t, 2 * t), {GRAPH + "g": Spent(0.75 * t, t, 4), REST: Spent(0.25 * t, t)})
        for t in times.tolist()
    ]


def images(count: int, side: int = 32, seed: int = 0) -> np.ndarray:
    """(count, side, side, 3) uint8 that no PNG makes smaller."""
    made = np.random.default_rng(seed).integers(40, 216, (count, side, side, 3))
    return made.astype(np.uint8)


def near(full: np.ndarray, levels: int) -> np.ndarray:
    """Images that many levels from these, up or down."""
    signs = np.random.default_rng(7).choice([-levels, levels], full.shape)
    return (full.astype(np.int16) + signs).clip(0, 255).astype(np.uint8)


def quality(levels: int = 2, count: int = 16, limits: PairLimits | None = None) -> PairsHere:
    full = images(count, 16)
    sides = PairSides("onnxruntime FP32", 100, full, near(full, levels) if levels else full)
    return pairs_here(sides, limits or PairLimits())


def row(bundle: str, runtime: str, precision: Any, ms: float, **other: Any) -> BenchRow:
    """One that was measured; other: fields that differ."""
    levels, scatter = other.pop("levels", 0 if precision == "fp32" else 2), other.pop("scatter", 0)
    found = quality(levels)
    state, why = state_and_why(found, precision == "fp32")
    verdict = HeldVerdict(
        state="within",
        change=0.01,
        change_low=-0.002,
        change_high=0.015,
        features="efficientnet-lite0 at 128 px",
        pairs=3000,
        signed_by=None,
    )
    fields: dict[str, Any] = {
        "bundle": bundle,
        "runtime": runtime,
        "precision": precision,
        "state": state,
        "why": why,
        "version": "1.0",
        "device": "CPU",
        "placement": {"g": {"CPU": 4}},
        "latency": [
            latency_of(samples(ms, scatter or 0.01), 1, 1, "cpu"),
            latency_of(samples(6 * ms), 8, 1, "cpu"),
        ],
        "own": OwnProcess(
            load_ms=50.0,
            first_cpu_ms=2 * ms,
            first_wall_ms=3 * ms,
            peak=[PeakMemory(batch=1, bytes=80 << 20), PeakMemory(batch=8, bytes=90 << 20)],
        ),
        "quality": found,
        "verdict": None if precision == "fp32" else verdict,
        "command": f"edgegen bench {bundle} --runtime {runtime} --report report",
        "seeds": None,
        "worst": None,
    }
    return BenchRow(**{**fields, **other})


def not_measured(bundle: str, runtime: str, state: Any, why: str) -> BenchRow:
    empty: dict[str, Any] = {"latency": [], "own": None, "quality": None, "placement": {}}
    return row(bundle, runtime, "int8", 1.0, state=state, why=why, **empty)


def document(*rows: BenchRow, **other: Any) -> BenchDocument:
    """Of these rows, speeds included."""
    bundles = [
        BenchedBundle(
            name=name,
            family="cas-dm",
            source="cas-dm",
            edgegen="0.1.0",
            manifest_sha256="0" * 64,
            full_sha256="1" * 64,
            signed_by=None,
            image=[16, 16],
            reference=f"{name}: onnxruntime FP32",
            prompt=None,
            seeds=None,
        )
        for name in dict.fromkeys(one.bundle for one in rows)
    ]
    fields: dict[str, Any] = {
        "schema_version": SCHEMA,
        "kind": "edgegen bench",
        "edgegen": "0.1.0",
        "made": "2026-01-01 00:00 UTC",
        "command": "edgegen bench a --report report",
        "machine": {"cpu": "a CPU", "cores": "2"},
        "versions": {"numpy": "2.0"},
        "compared_by": "cpu",
        "bundles": bundles,
        "rows": list(rows),
        "gates": [],
    }
    return with_speeds(BenchDocument(**{**fields, **other}))


def large(count: int = 20, side: int = 128) -> tuple[BenchDocument, Pictures]:
    """A bundle of so many rows, half of them INT8, with pictures that do not compress."""
    rows: list[BenchRow] = []
    pictures: dict[str, np.ndarray] = {}
    budget = BUDGET // (count // 2 * 5)
    for number in range(count):
        precision = ("fp32", "int8")[number % 2]
        name = NAMES[number // 2 % len(NAMES)]
        shown: dict[str, Any] = {}
        if precision == "int8":
            wide, size = fitting(side, budget)
            for kind, high in (("seeds", 1), ("worst", 2)):
                of = [images(min(wide, 4 * high), side, number + k) for k in range(high)]
                shown[kind] = pictured(
                    f"{'row' if high == 1 else kind}-{number}", of, size, pictures
                )
        ms = 10.0 + number - 6 * (precision == "int8")
        rows.append(row(f"bundle{number // 10}", name, precision, ms, levels=number % 5, **shown))
    made = document(*rows)
    full = [
        one.model_copy(update={"seeds": pictured(f"bundle-{k}", [images(8, 32)], 32, pictures)})
        for k, one in enumerate(made.bundles)
    ]
    return made.model_copy(update={"bundles": full}), pictures


def pictured(name: str, of: list[np.ndarray], size: int, pictures: dict[str, Any]) -> Any:
    about, _ = strip(name, of, size)
    shape = (about.rows, about.columns, about.height, about.width, 3)
    pictures[about.file] = images(about.rows * about.columns, about.height).reshape(shape)
    return about


def toy(folder: Path, change: Callable[[dict[str, Any]], object] | None = None) -> Path:
    """The toy bundle without its signature, in a folder of that name. change: of its INT8 theta's
    initializers by name, each an array.
    """
    shutil.copytree(TOY, folder)
    (folder / "model.sig").unlink()
    if change is not None:
        file = "int8/onnxruntime/theta.onnx"
        model = onnx.load(folder / file)
        held = {
            one.name: np.array(onnx.numpy_helper.to_array(one)) for one in model.graph.initializer
        }
        change(held)
        for one in model.graph.initializer:
            one.CopyFrom(onnx.numpy_helper.from_array(held[one.name], one.name))
        onnx.save(model, folder / file)
        resealed(folder, file)
    return folder


def resealed(folder: Path, file: str) -> None:
    """Its hash and the manifest's made right again."""
    manifest, data = read_json(folder / MANIFEST), (folder / file).read_bytes()
    manifest["files"][file] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    manifest["sha256"] = digest(manifest)
    (folder / MANIFEST).write_bytes(to_json(manifest))
