"""Verbs on toys as somebody might kill them: what each needs, its command line, and what its output
is afterwards.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edgegen.cli.main import run as edgegen

TOY = Path(__file__).parents[1] / "golden" / "bundle-1-toy"
Line = list[str]
ATTEMPTS = "attempts"  # to reach another machine, in the server's folder
ABSENT, WHOLE, OPEN, BROKEN = "absent", "whole", "open", "broken"


@dataclass(frozen=True)
class KilledVerb:
    """prepare: makes what all its runs read, in a folder; line: the command line, with that folder
    and the folder of the run; state: of the output; again: the line after a kill, where it is
    another; warm: does once what every run would do anew.
    """

    prepare: Callable[[Path], object]
    line: Callable[[Path, Path], Line]
    state: Callable[[Path, Path], str]
    again: Callable[[Path, Path], Line] | None = None
    warm: Callable[[Path], object] = lambda _: None


def nothing(_: Path) -> None:
    pass


def small_run(inputs: Path) -> None:
    """A run that looks trained: 8 pixels, two steps, random weights."""
    from runs import TOY as CONFIG
    from toys import shaken, shapes

    from edgegen.core.files import to_json
    from edgegen.evidence import reference
    from edgegen.evidence.features import feature_network
    from edgegen.training import checkpoint
    from edgegen.training.digests import seal

    config, pictures = replace(CONFIG, steps=2), shapes(64, CONFIG.size)
    (run := inputs / "run").mkdir()
    data = {"sha256": pictures.fingerprint, "images": len(pictures), "classes": []}
    about = {**checkpoint.describe("cas-dm", config), "data": data}
    weights = shaken(config, scale=0.3).networks.state_dict()
    (run / "run.json").write_bytes(to_json(about))
    (run / checkpoint.WEIGHTS).write_bytes(checkpoint.to_bytes(dict(weights)))
    network = feature_network("efficientnet-lite0")
    made = reference.build(network(pictures.pixels), network, "shapes", 8)
    made.write(run / "reference.safetensors")
    seal(run)


def planned_run(inputs: Path) -> None:
    small_run(inputs)
    line = f"calibrate {inputs / 'run'} -o {inputs / 'plan'} --samples 32 --threads 1"
    assert edgegen(line.split()) == 0


def traced(inputs: Path) -> None:
    """The graphs of the run, which are remembered (trace_memory)."""
    from edgegen.workflows.export.fp32 import fp32_models
    from edgegen.workflows.generators import load_generator

    fp32_models(load_generator(inputs / "run"))


def photos(inputs: Path) -> None:
    import sites

    (inputs / "photos").mkdir()
    sites.photo_files(inputs / "photos")


def site(inputs: Path) -> None:
    photos(inputs)
    small_run(inputs)


def adapted_run(inputs: Path) -> None:
    site(inputs)
    assert edgegen(finetune_line(inputs, inputs)) == 0


def key(inputs: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    made = ec.generate_private_key(ec.SECP256R1())
    for name, data in (
        (
            "key",
            made.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        ),
        (
            "public",
            made.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            ),
        ),
    ):
        (inputs / name).write_bytes(data)


def bundle_state(_: Path, run: Path) -> str:
    from edgegen.core.bundle import Bundle
    from edgegen.errors import EdgegenError

    if not (run / "out").exists():
        return ABSENT
    try:
        Bundle.open(run / "out")
    except EdgegenError:
        return BROKEN
    return WHOLE if (run / "out" / "README.md").is_file() else BROKEN


def signed_state(inputs: Path, run: Path) -> str:
    from edgegen.errors import EdgegenError
    from edgegen.workflows.bundles import open_bundle

    try:
        open_bundle(run / "out", inputs / "public")
    except EdgegenError as error:
        return ABSENT if error.code == "E-SIGNATURE" else BROKEN
    return WHOLE


def images_state(_: Path, run: Path) -> str:
    from PIL import Image

    if not (run / "out").exists():
        return ABSENT
    made = sorted((run / "out").iterdir())
    for path in made:
        with Image.open(path) as image:
            image.load()
    return WHOLE if len(made) == 3 else BROKEN


def documents_state(*names: str) -> Callable[[Path, Path], str]:
    def state(_: Path, run: Path) -> str:
        if not (run / "out").exists():
            return ABSENT
        for name in names:
            json.loads((run / "out" / name).read_bytes())
        return WHOLE if sorted(p.name for p in (run / "out").iterdir()) == sorted(names) else BROKEN

    return state


def run_state(_: Path, run: Path) -> str:
    """A run that can be used, one that can be resumed, or neither."""
    from edgegen.errors import EdgegenError
    from edgegen.training import run as runs

    out = run / "out"
    if not (out / "run.json").is_file():
        return ABSENT
    try:
        runs.load(out)
    except EdgegenError as error:
        return OPEN if error.code == "E-RUN-OPEN" else BROKEN
    return WHOLE if (out / "reference.safetensors").is_file() else OPEN


def resumed(line: Callable[[Path, Path], Line]) -> Callable[[Path, Path], Line]:
    """The same, with --resume where there is a run to resume."""

    def again(inputs: Path, run: Path) -> Line:
        begun = (run / "out" / "run.json").is_file()
        return [*line(inputs, run), *(["--resume"] if begun else [])]

    return again


def train_line(inputs: Path, run: Path) -> Line:
    words = f"train cas-dm {run / 'out'} --data {inputs / 'photos'} --recipe tiny --images 64"
    return [*words.split(), "--batch", "8", "--threads", "1"]


def finetune_line(inputs: Path, run: Path) -> Line:
    words = f"finetune {inputs / 'run'} {run / 'out'} --data {inputs / 'photos'} --steps 12"
    more = ["--batch", "8", "--looks", "2", "--held-out", "0.25", "--threads", "1"]
    return [*words.split(), *more]


def calibrate_line(inputs: Path, run: Path) -> Line:
    words = f"calibrate {inputs / 'run'} -o {run / 'out'} --samples 32 --threads 1 --overwrite"
    return words.split()


def export_line(inputs: Path, run: Path) -> Line:
    plan = inputs / "plan" / "plan.json"
    words = f"export {inputs / 'run'} --int8 -o {run / 'out'} --plan {plan} --overwrite"
    # random weights keep to these on however few images
    limits = "--fid-budget 100% --min-psnr 0 --max-ruined 2% --max-moved 50% --max-apart 20%"
    return f"{words} {limits} --calibration 32 --max-images 500 --threads 1".split()


def sign_line(inputs: Path, run: Path) -> Line:
    if not (run / "out").exists():
        shutil.copytree(TOY, run / "out")
        (run / "out" / "model.sig").unlink()
    return ["sign", str(run / "out"), "--key", str(inputs / "key"), "--overwrite"]


# those that take long first: two processes share them
VERBS = {
    "export": KilledVerb(planned_run, export_line, bundle_state, warm=traced),
    "finetune": KilledVerb(site, finetune_line, run_state, resumed(finetune_line)),
    "train": KilledVerb(photos, train_line, run_state, resumed(train_line)),
    "merge": KilledVerb(
        adapted_run,
        lambda inputs, run: f"merge {inputs / 'out'} -o {run / 'out'} --overwrite".split(),
        run_state,
    ),
    "calibrate": KilledVerb(
        small_run, calibrate_line, documents_state("plan.json", "report.json"), warm=traced
    ),
    "sign": KilledVerb(key, sign_line, signed_state),
    "generate": KilledVerb(
        nothing,
        lambda _, run: f"generate {TOY} -n 3 --threads 1 -o {run / 'out'}".split(),
        images_state,
    ),
}
