"""Export the three real models for each runtime and compare them with what other toolkits make of
the same graphs; run a bundle of prompts on a device.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import log10
from pathlib import Path
from typing import Any

from _peers import Make, elsewhere, onnxruntime_own, quantized_by, seconds
from PIL import Image

from edgegen.core.bundle import MANIFEST, Bundle
from edgegen.core.runtime import Pipeline
from edgegen.core.seeds import BENCHMARKS
from edgegen.core.verdict import together
from edgegen.errors import EdgegenError
from edgegen.evidence import bench
from edgegen.evidence.classes import class_names
from edgegen.evidence.compare import Pairs
from edgegen.evidence.full_side import FullSide
from edgegen.evidence.judge import Noted, gates_at
from edgegen.evidence.looks import LookSchedule
from edgegen.evidence.movement import in_percent
from edgegen.evidence.terms import Terms
from edgegen.export import runtime
from edgegen.workflows.bench_report.peer_scripts import NNCF
from edgegen.workflows.export.judges import judge_of
from edgegen.workflows.export.publishing import REJECTED
from edgegen.workflows.export.run import ExportSettings, export_bundle
from edgegen.workflows.source_choices import SourceChoices

ROOT = Path(__file__).resolve().parents[1]
RUNTIMES = ("onnxruntime", "openvino")
BATCH, ROUNDS = 4, 3  # of the measurement of speeds
STEPS, GUIDANCE = 20, 3.0  # as in the README.md of the text-to-image folder
Row = dict[str, Any]


@dataclass(frozen=True)
class Subjects:
    """Say where the models are; `only` names one of them."""

    folder: Path
    models: Path
    work: Path
    nncf: str | None
    only: str | None


@dataclass(frozen=True)
class Effort:
    """Set the effort.

    `max_images`, `ruined` (the largest share that passes) and `time` (such as 15m; None: no limit)
    are those of the exports; `samples` are the pairs on which all are judged in one run, and
    `feeds` the seeds that the peers calibrate on.
    """

    max_images: int
    samples: int
    feeds: int
    time: str | None = None
    ruined: float = 0.002

    @property
    def terms(self) -> Terms:
        """Return the gates of an export, at one look."""
        return Terms(0.02, self.samples, ruined=self.ruined, psnr=ExportSettings().min_psnr_db)


@dataclass(frozen=True)
class RealModel:
    """Say what is exported, and how."""

    source: Path
    choices: SourceChoices
    steps: int | None = None


def real_models(subjects: Subjects) -> Mapping[str, RealModel]:
    """Return the models by the names that their bundle folders begin with."""
    terrain, faces = subjects.models / "terrain", subjects.models / "faces"
    given = ("noisy=noise", "sigma=timestep", f"difficulty={terrain / 'difficulty.npy'}")
    prompts = subjects.folder / "prompts.txt"
    return {
        "emoji": RealModel(subjects.folder, SourceChoices(prompts, guidance=GUIDANCE), steps=STEPS),
        "faces": RealModel(faces / "model.onnx", SourceChoices()),
        "terrain": RealModel(
            terrain / "model.onnx", SourceChoices(inputs=given, sampler=terrain / "sampler.json")
        ),
    }


def models(subjects: Subjects, effort: Effort) -> list[Row]:
    """Return a row for each export, and a row for each candidate that was judged in the
    common run.
    """
    # other exports of the same model would use up part of this one's error
    os.environ["EDGEGEN_CACHE"] = str(subjects.work / "cache")
    rows: list[Row] = []
    for name, model in real_models(subjects).items():
        if subjects.only not in (None, name):
            continue
        bundles = {}
        for host in RUNTIMES:
            row, bundle = exported(name, model, host, subjects.work, effort)
            rows.append(row)
            print(json.dumps(row), flush=True)
            if bundle is not None:
                bundles[host] = bundle
        rows += side_by_side(name, bundles, subjects.nncf, effort) if bundles else []
    return rows


def exported(
    name: str, model: RealModel, host: str, work: Path, effort: Effort
) -> tuple[Row, Bundle | None]:
    """Return the row of an export and its bundle, even a refused one, made by an earlier run or
    now.
    """
    row: Row = {"model": name, "what": f"edgegen export, {host}"}
    out = work / f"{name}-{host}"
    refused = work / REJECTED / out.name
    if not any((folder / MANIFEST).is_file() for folder in (out, refused)):
        settings = ExportSettings(
            runtimes=(host,),
            no_reference=True,
            max_images=effort.max_images,
            steps=model.steps,
            time=effort.time,
            max_ruined=effort.ruined,
            threads=1,
            source=model.choices,
        )
        try:
            export_bundle(model.source, out, settings)
        except EdgegenError as error:
            row["why"] = str(error)
    for folder, state in ((out, "within"), (refused, "refused")):
        if (folder / MANIFEST).is_file():
            bundle = Bundle.open(folder)
            found = bundle.manifest.evidence["runtimes"][host]
            return {**row, **_evidence(found), "state": found.get("state", state)}, bundle
    return {**row, "state": "refused"}, None


def _evidence(found: Mapping[str, Any]) -> Row:
    gates = found["gates"]
    tail = gates["ruined"]
    return {
        "speed": round(found["speed"], 2),
        "PSNR dB": round(found["psnr_db"], 1) if found["psnr_db"] is not None else "equal",
        "ruined": f"{tail['ruined']} of {tail['pairs']}, at most {tail['at_most']:.2%}",
        "size": round(found["size_ratio"], 2),
    }


def side_by_side(
    name: str, bundles: Mapping[str, Bundle], nncf: str | None, effort: Effort
) -> Iterator[Row]:
    """Compare all candidates on the same graphs, feeds and seeds in one run."""
    bundle = next(iter(bundles.values()))
    full = {host: bundle.pipeline(runtime(host), "fp32", 1) for host in RUNTIMES}
    candidates = {
        f"edgegen, {host}": one.pipeline(runtime(host), "int8", 1) for host, one in bundles.items()
    }
    peers: dict[str, tuple[Make, str]] = {"quantize_static": (onnxruntime_own, "onnxruntime")}
    if nncf:
        peers["NNCF"] = (elsewhere(nncf, NNCF, ".xml"), "openvino")
    feeds = bench.record(full["onnxruntime"], range(effort.feeds))
    with tempfile.TemporaryDirectory() as place:
        for peer, (make, host) in peers.items():
            (mine := Path(place) / peer).mkdir()
            try:
                candidates[f"{peer}, {host}"] = quantized_by(make, bundle, feeds, host, mine)
            except Exception as error:  # the failure of a peer is a result too
                yield {"model": name, "what": f"{peer}, {host}", "why": f"failed: {error!s:.200}"}
        spent = seconds({f"FP32, {h}": p for h, p in full.items()} | candidates, BATCH, ROUNDS)
        base = min(spent[f"FP32, {host}"] for host in full)
        side = FullSide(
            full["onnxruntime"],
            judge_of(None, None),
            None,
            BENCHMARKS.first,
            classes=class_names(bundle.manifest.source, bundle.latent, BENCHMARKS.first),
        )
        for what, pipeline in (
            {f"FP32, {host}": one for host, one in full.items()} | candidates
        ).items():
            row = {
                "model": name,
                "what": what,
                "speed": round(base / spent[what], 2),
                "ms an image": round(1e3 * spent[what] / BATCH, 1),
                **judged(side, pipeline, effort),
            }
            print(json.dumps(row), flush=True)
            yield row


def judged(side: FullSide, pipeline: Pipeline, effort: Effort) -> Row:
    """Judge by an export's gates at one look, and by the share of ruined pairs as it is."""
    noted, terms = Noted(side), effort.terms
    pairs = Pairs(side, pipeline, noted)
    look = next(iter(pairs.looks(LookSchedule.once(effort.samples), terms.budget)))
    gates, bad = gates_at(pairs, look, terms), sum(noted.ruined)
    state = together(gates.states.values())
    error = float(pairs.errors.mean())
    return {
        "PSNR dB": round(-10 * log10(error), 1) if error else "equal",
        "moved": in_percent(gates.moved),
        "apart": in_percent(gates.apart),
        "ruined": f"{bad} of {len(noted.ruined)}",
        "state": "outside" if bad > terms.ruined * len(noted.ruined) else state,
    }


def device(bundle: Path) -> list[Row]:
    """Make images from prompts with the wheel, one runtime and the tokenizer, and nothing else
    installed.
    """
    sys.path.append(str(ROOT / "tests"))
    import devices

    host = next(iter(Bundle.open(bundle).manifest.runtimes))
    prompt = "a red apple"
    with tempfile.TemporaryDirectory() as place:
        folder, home = Path(place), Path(place) / "home"
        home.mkdir()
        there = devices.device(folder, devices.wheel(folder / "wheel"), [host, "prompts"])
        absent = [
            module
            for module in ("torch", "diffusers", "transformers", "onnx")
            if "ModuleNotFoundError" in there.run(home, f"import {module}").stderr
        ]
        said = ["--prompt", prompt, "--seed", "7", "-n", "4", "-o", "grid.png"]
        done = there.edgegen(home, "generate", str(bundle.resolve()), *said)
        row: Row = {"runtime": host, "prompt": prompt, "absent": ", ".join(absent)}
        if done.returncode:
            return [{**row, "images": "none", "why": done.stderr.strip()[-300:]}]
        with Image.open(home / "grid.png") as grid:
            return [{**row, "images": f"4 in a grid of {grid.width} x {grid.height}"}]
