"""Verbs on toys as somebody might kill them: what each needs, its command line, and what its output
is afterwards.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TOY = Path(__file__).parents[1] / "golden" / "bundle-1-toy"
Line = list[str]
ABSENT, WHOLE, OPEN, BROKEN = "absent", "whole", "open", "broken"


@dataclass(frozen=True)
class KilledVerb:
    """prepare: makes what all its runs read, in a folder; line: the command line, with that folder
    and the folder of the run; again: the one after a kill; state: of the output.
    """

    prepare: Callable[[Path], object]
    line: Callable[[Path, Path], Line]
    again: Callable[[Path, Path], Line]
    state: Callable[[Path, Path], str]
    kept: tuple[str, ...] = ("out",)  # names in the run's folder when all is done


def verb(
    prepare: Callable[[Path], object],
    line: Callable[[Path, Path], Line],
    state: Callable[[Path, Path], str],
    again: Callable[[Path, Path], Line] | None = None,
    kept: tuple[str, ...] = ("out",),
) -> KilledVerb:
    return KilledVerb(prepare, line, again or line, state, kept)


def nothing(_: Path) -> None:
    pass


def tiny_run(inputs: Path) -> None:
    import tiny

    tiny.finished_run(inputs / "run")


def planned_run(inputs: Path) -> None:
    import tiny

    tiny_run(inputs)
    (inputs / "plan.json").write_bytes(tiny.plan().to_bytes())


def photos(inputs: Path) -> None:
    import sites

    (inputs / "photos").mkdir()
    sites.photo_files(inputs / "photos")


def site(inputs: Path) -> None:
    photos(inputs)
    tiny_run(inputs)


def adapted_run(inputs: Path) -> None:
    import adapters
    import sites

    site(inputs)
    assert adapters.run("cas-dm", inputs / "first", steps=2)
    assert sites.go(inputs / "run", inputs / "adapted", inputs / "photos") == 0


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


def export_line(inputs: Path, run: Path) -> Line:
    import tiny

    words = f"export {inputs / 'run'} --int8 -o {run / 'out'} --plan {inputs / 'plan.json'}"
    more = "--calibration 32 --max-images 500 --threads 1 --overwrite"
    return [*words.split(), *tiny.TERMS, *more.split()]


def sign_line(inputs: Path, run: Path) -> Line:
    if not (run / "out").exists():
        shutil.copytree(TOY, run / "out")
        (run / "out" / "model.sig").unlink()
    return ["sign", str(run / "out"), "--key", str(inputs / "key"), "--overwrite"]


VERBS = {
    "generate": verb(
        nothing,
        lambda _, run: [*f"generate {TOY} -n 3 --threads 1 -o {run / 'out'}".split()],
        images_state,
    ),
    "sign": verb(key, sign_line, signed_state),
    "calibrate": verb(
        tiny_run,
        lambda inputs, run: [
            *f"calibrate {inputs / 'run'} -o {run / 'out'} --samples 32".split(),
            *["--threads", "1", "--overwrite"],
        ],
        documents_state("plan.json", "report.json"),
    ),
    "merge": verb(
        adapted_run,
        lambda inputs, run: [
            *f"merge {inputs / 'adapted'} -o {run / 'out'} --overwrite".split(),
        ],
        run_state,
    ),
    "train": verb(photos, train_line, run_state, resumed(train_line)),
    "finetune": verb(site, finetune_line, run_state, resumed(finetune_line)),
    "export": verb(planned_run, export_line, bundle_state),
}
