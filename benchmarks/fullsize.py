"""Export a text-to-image folder of full size as a user would, and hold it against what was
predicted.

    python -m benchmarks fullsize --work FOLDER --json FILE
    python -m benchmarks fullsize --folder OWN --prompts FILE --time 10m    # another folder

Without --folder, a folder of Stable Diffusion 1.5's shape with random FP16 weights is made (2.1 GB)
with the LCM scheduler: speed, memory and agreement count there, quality does not. First
`edgegen inspect --predict` says what an export will take, then `edgegen export --int8 --time`
makes the bundle, and `verify`, `lint`, `bench` and `generate --prompt` each take it. Every command
is a process of its own, on OpenVINO. The folder --work needs 25 GB of free disk; a bundle that is
there from an earlier run is replaced.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _bring_size import made
from _result import Part, Row, arguments_of, report

from edgegen.core.counting import counted

RUNTIME = "openvino"
SEEDS = "the export's own, drawn from the digest of its files"
GUIDANCE = 1.0  # a consistency model needs no second call for guidance
SIZE_GOAL, PREDICTION_GOAL = 0.55, 0.30
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "grey")
THINGS = ("shoe", "chair", "lamp", "table", "bag", "cup", "clock", "sofa")
LCM = {
    "_class_name": "LCMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "original_inference_steps": 50,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


@dataclass(frozen=True)
class Ran:
    """Hold how a command ended: its exit code, seconds of wall time, and its one JSON document."""

    code: int
    seconds: float
    document: dict[str, Any]
    said: str


def ran(*words: str) -> Ran:
    """Run edgegen in a process of its own; what it says goes on to this program's stderr."""
    started = time.monotonic()
    print(f"\n$ edgegen {' '.join(words)}", file=sys.stderr, flush=True)
    with subprocess.Popen(
        [sys.executable, "-m", "edgegen", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            print(line, end="", file=sys.stderr, flush=True)
        out = process.stdout.read()
    seconds = time.monotonic() - started
    document = json.loads(out) if out.startswith("{") else {}
    return Ran(process.returncode, seconds, document, "".join(lines[-3:]))


def prompts(folder: Path) -> Path:
    """Write 64 prompts and return their file."""
    path = folder / "prompts.txt"
    path.write_text("".join(f"a {colour} {thing}\n" for colour in COLOURS for thing in THINGS))
    return path


def changed(path: Path, fields: Mapping[str, Any]) -> None:
    """Give fields of a JSON file other values."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def stored(folder: Path) -> int:
    """Return the bytes of the weights of a folder, as FP16."""
    from safetensors import safe_open

    values = 0
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                size = 1
                for axis in file.get_slice(name).get_shape():
                    size *= axis
                values += size
    return 2 * values


def compared(what: str, predicted: float, real: float, unit: str) -> Row:
    """Return a predicted and a real figure as a row, and whether they are near enough."""
    return {
        "what": what,
        "predicted": predicted,
        "real": real,
        "unit": unit,
        "goal": f"within {PREDICTION_GOAL:.0%}",
        "met": abs(predicted - real) <= PREDICTION_GOAL * real,
    }


def predictions(inspected: Ran, exported: Ran, bundle: Path | None) -> Iterator[Row]:
    """Yield what was predicted of the whole, and of each step of a published bundle, beside what it
    took.
    """
    predicted = inspected.document["predicted"]
    yield compared("all", predicted["seconds"] / 60, exported.seconds / 60, "minutes")
    if bundle is None:
        return
    evidence = json.loads((bundle / "manifest.json").read_text())["evidence"]
    for name, seconds in evidence["time"]["took_s"].items():
        yield compared(name, predicted["steps"][name]["seconds"] / 60, seconds / 60, "minutes")
    peak = evidence["memory"]["peak_bytes"]
    yield compared("peak memory", predicted["peak_bytes"] / 1e9, peak / 1e9, "GB")


def device_bytes(bundle: Path) -> int:
    """Return the bytes that a device loads: the runtime's graphs and the text encoder."""
    loaded = json.loads((bundle / "manifest.json").read_text())["runtimes"][RUNTIME]["load"]
    graphs = [path for file in loaded.values() for path in (bundle / file).parent.iterdir()]
    kept = [path for path in graphs if path.suffix in (".xml", ".bin")]
    return sum(path.stat().st_size for path in {*kept, *(bundle / "text").iterdir()})


def after(bundle: Path, work: Path, given: argparse.Namespace) -> Iterator[Row]:
    """Yield how each command takes the bundle."""
    grid, threads = work / "grid.png", str(given.threads)
    grid.unlink(missing_ok=True)
    commands: Sequence[Sequence[str]] = (
        ("lint", str(bundle)),
        ("generate", str(bundle), "--prompt", "a red shoe", "-n", "1", "-o", str(grid)),
        ("bench", str(bundle), "--threads", threads),
        (
            "verify",
            str(bundle),
            "--no-reference",
            "--max-ruined",
            given.max_ruined,
            "--threads",
            threads,
        ),
    )
    for words in commands:
        found = ran(*words)
        last = found.said.strip().splitlines()[-1:]
        yield {
            "what": words[0],
            "real": found.seconds / 60,
            "unit": "minutes",
            "exit code": found.code,
            "verdict": last[0] if found.code and last else None,
        }


def measured(given: argparse.Namespace, work: Path) -> Iterator[Row]:
    """Yield every row of the table."""
    folder = given.folder or work / "model"
    if given.folder is None and not folder.is_dir():
        made(folder)
        changed(folder / "unet" / "config.json", {"sample_size": given.pixels // 8})
        changed(folder / "vae" / "config.json", {"sample_size": given.pixels})
        changed(folder / "model_index.json", {"scheduler": ["diffusers", "LCMScheduler"]})
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(LCM))
    texts = given.prompts or prompts(work)
    out = work / "bundle"
    alike = ["--prompts", str(texts), "--guidance", str(GUIDANCE), "--steps", str(given.steps)]
    alike += ["--runtime", RUNTIME, "--time", given.time, "--max-ruined", given.max_ruined]
    alike += ["--threads", str(given.threads), "--json"]
    inspected = ran("inspect", str(folder), "--predict", *alike)
    if inspected.code:
        raise SystemExit(f"fullsize: inspect ended with {inspected.code}: {inspected.said}")
    more = ["--int8", "--memory", given.memory, "--no-reference", "--overwrite", "-o", str(out)]
    exported = ran("export", str(folder), *more, *alike)
    last = exported.said.strip().splitlines()[-1:]
    quality = exported.document.get("runtimes", {}).get(RUNTIME, {})
    yield {
        "what": "export",
        "real": exported.seconds / 60,
        "unit": "minutes",
        "exit code": exported.code,
        "verdict": quality.get("state") or (last[0] if last else None),
        "speed": quality.get("speed"),
        "PSNR dB": quality.get("psnr_db"),
        "pairs": quality.get("images"),
    }
    if exported.code not in (0, 3):
        return
    yield from predictions(inspected, exported, None if exported.code else out)
    if exported.code:
        return
    share = device_bytes(out) / stored(folder)
    yield {
        "what": "INT8 files of the FP16 checkpoint's bytes",
        "real": share,
        "unit": "share",
        "goal": f"<= {SIZE_GOAL}",
        "met": share <= SIZE_GOAL,
    }
    yield from after(out, work, given)


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--folder", type=Path, help="a folder of your own (default: one is made)")
    parser.add_argument("--pixels", type=int, default=512, help="of the made folder (default: 512)")
    parser.add_argument("--prompts", type=Path, help="its prompts (default: 64 of products)")
    parser.add_argument("--work", type=Path, help="where the files go (default: temporary)")
    parser.add_argument("--time", default="90m", help="of the export (default: 90m)")
    parser.add_argument("--memory", default="8GB", help="of the export (default: 8GB)")
    parser.add_argument("--max-ruined", default="10%", help="of the export (default: 10%%)")
    parser.add_argument("--steps", type=int, default=4, help="of the sampler (default: 4)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    given = parser.parse_args()
    settings = {name: getattr(given, name) for name in ("time", "memory", "max_ruined", "steps")}
    shaped = f"SD1.5-shaped, {given.pixels} px, {counted(given.threads, 'thread')}"
    name = shaped if given.folder is None else given.folder.name
    with tempfile.TemporaryDirectory() as place:
        work = given.work or Path(place)
        work.mkdir(parents=True, exist_ok=True)
        rows: list[Row] = []
        for row in measured(given, work):  # kept at once, because all of it takes hours
            rows.append(row)
            report(given.json, "fullsize", name, Part(rows, SEEDS, given.threads, settings))


if __name__ == "__main__":
    main()
